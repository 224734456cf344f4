"""Reading ledgers from Kafka, read committed, and what else says where their tasks stand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError

from streamapp.engine import seams
from streamapp.engine.fetching import WholeBatches
from streamapp.engine.marker import LedgerEntry, Marker, decode_entry, decode_marker
from streamapp.engine.provisioning import no_broker
from streamapp.engine.topology import Topology
from streamapp.ledger.coordination import from_coordinator
from streamapp.ledger.errors import LedgerError

__all__ = ["LedgerReader", "Spans", "Standing"]

Spans = Mapping[TopicPartition, tuple[int, int]]
"""Ranges of offsets to read, `[begin, end)` of each partition."""

_POLL_MS: Final = 50
_FETCH_BYTES: Final = 4 << 20
_STABLE_WITHIN: Final = 60.0
"""Seconds that a transaction may stay open: brokers abort what a dead worker left within 10."""
_READ_WITHIN: Final = 60.0
"""Seconds within which something has to come of what is there to be read."""


class Standing(NamedTuple):
    """Where a topology stands by what is not the ledger.

    Attributes:
        partitions: the partitions of the source topics that are there.
        committed: the group's offsets.
        markers: the last marker of each task that has one.
    """

    partitions: list[TopicPartition]
    committed: dict[TopicPartition, int]
    markers: dict[int, Marker]


class LedgerReader:
    """Reads; a context, within which it is connected: `async with LedgerReader(options) as reader`.

    Arguments:
        kafka_options: addresses and credentials, as every aiokafka client takes them.

    Raises:
        LedgerError: no broker answers.
    """

    def __init__(self, kafka_options: Mapping[str, Any]) -> None:
        self._options = dict(kafka_options)
        self.admin = AIOKafkaAdminClient(**self._options)
        self.consumer = AIOKafkaConsumer(
            **self._options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        # The high watermark is told to those who read everything.
        self._everything = AIOKafkaConsumer(**self._options, enable_auto_commit=False)

    async def __aenter__(self) -> Self:
        try:
            await self.admin.start()
            seams.tell_refused_offsets(self.admin)
            await self.consumer.start()
            await self._everything.start()
        except (KafkaConnectionError, OSError) as error:
            await self._close()
            raise LedgerError(no_broker(str(self._options["bootstrap_servers"]))) from error
        except BaseException:
            await self._close()
            raise
        self._whole_batches = WholeBatches(self.consumer)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._everything.stop()
        await self.consumer.stop()
        await self.admin.close()

    # ------------------------------------------------------------------ topics

    async def partitions(self, *topics: str) -> list[TopicPartition]:
        """Return the partitions of topics, none of a topic that is not there."""
        # A broker that makes topics on demand would make those that are asked for.
        there = set(await self.admin.list_topics()).intersection(topics)
        described = await self.admin.describe_topics(sorted(there)) if there else []
        return sorted(
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            if not topic["error_code"]
            for partition in topic["partitions"]
        )

    async def begins(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where partitions begin."""
        if not partitions:
            return {}
        found: dict[TopicPartition, int] = await self.consumer.beginning_offsets(list(partitions))
        return found

    async def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where partitions end, for those who read what is committed."""
        if not partitions:
            return {}
        found: dict[TopicPartition, int] = await self.consumer.end_offsets(list(partitions))
        return found

    async def stable_ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where partitions end, once every transaction that is open now has ended.

        What is committed by the time of the call, anywhere, is below them.

        Raises:
            LedgerError: a transaction stays open.
        """
        if not partitions:
            return {}
        written = await self._everything.end_offsets(list(partitions))
        deadline = time.monotonic() + _STABLE_WITHIN
        while True:
            ends = await self.ends(partitions)
            behind = [tp for tp, end in ends.items() if end < written[tp]]
            if not behind:
                return ends
            if time.monotonic() > deadline:
                raise LedgerError(
                    f"a transaction has been open in {behind[0].topic}[{behind[0].partition}] for "
                    f"{_STABLE_WITHIN:.0f} s: what is behind it cannot be read; see which producer holds it "
                    "(kafka-transactions.sh find-hanging)"
                )
            await asyncio.sleep(_POLL_MS / 1000)

    # ------------------------------------------------------------------ records

    async def records(self, spans: Spans) -> AsyncIterator[tuple[TopicPartition, Sequence[Any]]]:
        """Yield the committed records of partitions, each in its order, many at a time.

        Raises:
            LedgerError: retention took some of them meanwhile, or nothing comes for a minute.
            KafkaError: the consumer has ended.
        """
        left = {tp: end for tp, (begin, end) in spans.items() if begin < end}
        if not left:
            return
        self.consumer.assign(list(left))
        for tp in left:
            self.consumer.seek(tp, spans[tp][0])
        seen: dict[TopicPartition, int] = {}
        deadline = time.monotonic() + _READ_WITHIN
        try:
            while left:
                seams.check_reading(self.consumer)
                fetched = await self._whole_batches.getmany(*left, timeout_ms=_POLL_MS)
                for tp, found in fetched.items():
                    if found[-1].offset >= left[tp]:
                        found = [record for record in found if record.offset < left[tp]]
                    if found:
                        yield tp, found
                positions = {tp: await self.consumer.position(tp) for tp in left}
                if positions != seen:
                    seen, deadline = positions, time.monotonic() + _READ_WITHIN
                elif time.monotonic() > deadline:
                    tp = next(iter(left))
                    raise LedgerError(
                        f"nothing was read of {tp.topic}[{tp.partition}] at offset {positions[tp]} for "
                        f"{_READ_WITHIN:.0f} s: see whether it has a leader"
                    )
                left = {tp: end for tp, end in left.items() if positions[tp] < end}
        except OffsetOutOfRangeError as error:
            raise LedgerError(
                f"retention removed records while they were read, of {_names(error)}: try again"
            ) from error

    async def entries(self, spans: Spans) -> AsyncIterator[tuple[TopicPartition, LedgerEntry]]:
        """Yield the entries of ledger partitions, each partition's in its order.

        Raises:
            StoreError: one is of another format.
        """
        async for tp, records in self.records(spans):
            for record in records:
                yield tp, decode_entry(record.value, _where("entry", tp, record.offset))

    async def new_entries(
        self, positions: Mapping[TopicPartition, int]
    ) -> AsyncIterator[tuple[TopicPartition, LedgerEntry]]:
        """Yield the entries of ledger partitions from some positions on, as they come, without an end."""
        self.consumer.assign(list(positions))
        for tp, position in positions.items():
            self.consumer.seek(tp, position)
        while True:
            seams.check_reading(self.consumer)
            fetched = await self._whole_batches.getmany(*positions, timeout_ms=_POLL_MS)
            for tp, found in fetched.items():
                for record in found:
                    yield tp, decode_entry(record.value, _where("entry", tp, record.offset))

    # ------------------------------------------------------------------ where a topology stands

    async def standing(self, topology: Topology) -> Standing:
        """Return where a topology stands. What is committed by then is in `stable_ends` of a later call."""
        sources = await self.partitions(*(source.name for source in topology.sources))
        stored = await from_coordinator(
            lambda: self.admin.list_consumer_group_offsets(topology.group, partitions=sources)
        )
        committed = {tp: found.offset for tp, found in stored.items() if found.offset >= 0}
        marks = await self.partitions(topology.checkpoint_topic)
        return Standing(sources, committed, await self.markers(marks))

    async def markers(self, partitions: Sequence[TopicPartition]) -> dict[int, Marker]:
        """Return the last marker in each partition of a checkpoint topic, of those that have one."""
        begins, ends = await self.begins(partitions), await self.ends(partitions)
        found: dict[int, Marker] = {}
        left, step = list(partitions), 16
        while left:
            # The topic is compacted: a marker is near the end of its partition.
            spans = {tp: (max(begins[tp], ends[tp] - step), ends[tp]) for tp in left}
            async for tp, records in self.records(spans):
                where = _where("marker", tp, records[-1].offset)
                found[tp.partition] = decode_marker(records[-1].value, where)
            left = [tp for tp in left if tp.partition not in found and spans[tp][0] > begins[tp]]
            step *= 16
        return found


def _where(what: str, tp: TopicPartition, offset: int) -> str:
    return f"the {what} {tp.topic}[{tp.partition}] at offset {offset}"


def _names(error: OffsetOutOfRangeError) -> str:
    return ", ".join(f"{tp.topic}[{tp.partition}]" for tp in error.args[0])
