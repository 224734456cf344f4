"""Recovery: from a changelog and the latest marker to a task that stands where it was.

A task that has just fenced its predecessor finds a closed log: what is read up to the last stable
offset is exactly the last committed checkpoint. A restore is finished when *position ≥ target*;
control records carry no data, and waiting for a record there would hang.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.engine.fetching import WholeBatches
from streamapp.engine.marker import MARKER_KEY, Marker, decode_marker, decode_progress
from streamapp.engine.replay import Replay
from streamapp.engine.topology import Topology
from streamapp.errors import StoreError
from streamapp.state.store import Store

__all__ = ["Restore"]

log = logging.getLogger(__name__)

_POLL_MS = 50
_FETCH_BYTES = 4 << 20


def _now() -> int:
    return round(time.time() * 1000)


class Restore:
    """Brings a task's store to the last committed checkpoint.

    Call it after the task's producer has been started, and not before.
    """

    def __init__(
        self, kafka_options: Mapping[str, Any], topology: Topology, partition: int, store: Store
    ) -> None:
        self._options = kafka_options
        self._topology = topology
        self._partition = partition
        self._store = store
        self.replay: Replay | None = None

    async def run(self) -> tuple[Marker | None, dict[str, int]]:
        """Restore; return the marker (`None` for a task without a checkpoint) and the positions.

        Raises:
            StoreError: store, changelog and marker contradict each other.
        """
        marks = TopicPartition(self._topology.checkpoint_topic, self._partition)
        logs = {
            TopicPartition(self._topology.changelog(table.name), self._partition): table.name
            for table in self._topology.tables
        }
        consumer = AIOKafkaConsumer(
            **self._options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
            whole_batches = WholeBatches(consumer)
            consumer.assign([marks, *logs])
            consumer.pause(*logs)
            begins = await consumer.beginning_offsets([marks, *logs])
            ends = await self._stable_ends(consumer, [marks, *logs])
            marker = await self._latest_marker(
                consumer, whole_batches, marks, begins[marks], ends[marks]
            )
            positions = self._start_positions(marker, logs, begins, ends)
            await self._apply(consumer, whole_batches, logs, positions, ends, marker or Marker())
        finally:
            await consumer.stop()
        return marker, positions

    async def _stable_ends(
        self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the ends, once no transaction is open below them.

        The last stable offset comes from `end_offsets` under read committed, the high watermark
        from another client that reads everything.
        """
        everything = AIOKafkaConsumer(**self._options, enable_auto_commit=False)
        said = False
        try:
            await everything.start()
            while True:
                stable: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
                high = await everything.end_offsets(partitions)
                if all(stable[tp] >= high[tp] for tp in partitions):
                    return stable
                if not said:
                    log.info("%s waits for a transaction to end below %s", self._name, high)
                    said = True
                await asyncio.sleep(_POLL_MS / 1000)
        finally:
            await everything.stop()

    @property
    def records(self) -> int:
        """Changelog records applied."""
        return 0 if self.replay is None else self.replay.records

    @property
    def _name(self) -> str:
        return f"{self._topology.name}/{self._partition}"

    async def _latest_marker(
        self,
        consumer: AIOKafkaConsumer,
        whole_batches: WholeBatches,
        tp: TopicPartition,
        begin: int,
        end: int,
    ) -> Marker | None:
        """Read backwards from the end in growing steps: the topic is compacted, its tail is short."""
        step = 64
        start = end
        while start > begin:
            start = max(begin, end - step)
            step *= 16
            found = None
            consumer.seek(tp, start)
            while await consumer.position(tp) < end:
                for record in (await whole_batches.getmany(tp, timeout_ms=_POLL_MS)).get(tp, ()):
                    if record.key == MARKER_KEY and record.value is not None:
                        found = record
            if found is not None:
                where = f"the marker {tp.topic}[{tp.partition}] at offset {found.offset}"
                return decode_marker(found.value, where)
        return None

    def _start_positions(
        self,
        marker: Marker | None,
        logs: Mapping[TopicPartition, str],
        begins: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> dict[str, int]:
        raw = self._store.progress
        stored = (
            None if raw is None else decode_progress(raw, f"the state store {self._store.path}")
        )
        seen = 0 if stored is None else stored.marker.sequence
        if seen > (0 if marker is None else marker.sequence):
            raise StoreError(
                f"the task {self._name} has seen its checkpoint {seen}, and the last one in "
                f"{self._topology.checkpoint_topic}[{self._partition}] is "
                f"{'none' if marker is None else marker.sequence}: the topic was deleted and made anew, or truncated. "
                f"Restore it, or give up this state: delete the topics {self._topology.checkpoint_topic} and "
                f"{', '.join(tp.topic for tp in logs)} and the directory {self._store.path}, and start again"
            )
        positions: dict[str, int] = {}
        for tp, table in logs.items():
            position = None if stored is None else stored.positions.get(table)
            known = max(position or 0, 0 if marker is None else marker.changelogs.get(table, 0))
            if known > ends[tp]:
                raise StoreError(
                    f"the changelog {tp.topic}[{tp.partition}] ends at {ends[tp]}, the task {self._name} has seen "
                    f"{known}: it was deleted and made anew, or truncated. Restore the topic, or give up this "
                    f"state: delete the topics {self._topology.checkpoint_topic} and {tp.topic} and the directory "
                    f"{self._store.path}, and start again"
                )
            positions[table] = begins[tp] if position is None else max(position, begins[tp])
        return positions

    async def _apply(
        self,
        consumer: AIOKafkaConsumer,
        whole_batches: WholeBatches,
        logs: Mapping[TopicPartition, str],
        positions: dict[str, int],
        ends: Mapping[TopicPartition, int],
        marker: Marker,
    ) -> None:
        replay = self.replay = Replay(self._store, positions, _now)
        behind = [tp for tp, table in logs.items() if positions[table] < ends[tp]]
        for tp in logs:
            consumer.seek(tp, positions[logs[tp]])
        if behind:
            consumer.resume(*behind)
        while behind:
            fetched = await whole_batches.getmany(*behind, timeout_ms=_POLL_MS)
            until = {logs[tp]: await consumer.position(tp) for tp in behind}
            await replay.apply(
                {logs[tp]: records for tp, records in fetched.items()}, until, marker
            )
            behind = [tp for tp in behind if positions[logs[tp]] < ends[tp]]
        if self.records:
            log.info("%s restored %d changelog records", self._name, self.records)
        replay.finish(marker)
