"""Reading whole record batches instead of a `ConsumerRecord` for each record.

Building a `ConsumerRecord` is most of what reading costs. `WholeBatches` lets one consumer hand
out the records of aiokafka's parser, a list a record batch: they have `offset`, `timestamp`,
`key`, `value` and `headers`. Everything else stays aiokafka's: its `_unpack_records` checks CRCs,
leaves out aborted transactions and control batches, and keeps the position. All it sees is batches
that seem to hold one record, which is the list.

aiokafka has no public form of this. Where a private name is missing, the consumer is left as it is
and its `ConsumerRecord`s pass through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import lt
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

__all__ = ["WholeBatches"]

log = logging.getLogger(__name__)

#: After how many seconds a partition is asked for again that was refused.
_PAUSE = 0.1


class _Records(list[Any]):
    """The records of one record batch, posing as the last of them."""

    __slots__ = ("offset",)

    offset: int


class _Batch:
    """A record batch that seems to hold one record: the list of those from an offset on."""

    __slots__ = ("_batch", "_from_offset")

    def __init__(self, batch: Any, from_offset: int) -> None:
        self._batch = batch
        self._from_offset = from_offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[_Records]:
        records = _Records(self._batch)
        offsets = [record.offset for record in records]
        if records and (
            offsets[0] < self._from_offset or not all(map(lt, offsets, islice(offsets, 1, None)))
        ):
            # A fetch that begins within a batch gets the whole of it; and what a broken writer has
            # left out of order, aiokafka leaves out record by record.
            records[:] = self._ascending(records)
        if records:
            records.offset = records[-1].offset
            yield records

    def _ascending(self, records: _Records) -> Iterator[Any]:
        due = self._from_offset
        for record in list(records):
            if record.offset >= due:
                due = record.offset + 1
                yield record


class _Fetched:
    """The record batches of one partition in one fetch, in place of aiokafka's `MemoryRecords`."""

    __slots__ = ("_batches", "_due", "_previous", "has_next")

    def __init__(self, batches: Any, from_offset: int) -> None:
        self._batches = batches
        self._due = from_offset
        self._previous: Any = None
        self.has_next = batches.has_next

    def next_batch(self) -> Any:
        """Return the next batch; a control batch as it is, since aiokafka looks into it."""
        # Batches may overlap where a broken writer has made them.
        if self._previous is not None:
            self._due = self._previous.next_offset
        batch = self._previous = self._batches.next_batch()
        return batch if batch.is_control_batch else _Batch(batch, self._due)


def _answered(assignment: Any, request: Any) -> list[Any]:
    """Return when each partition of a request was answered last: another object each time."""
    return [assignment.state_value(tp).timestamp for tp, _ in _asked_for(request)]


def _any_refused(assignment: Any, request: Any, before: Iterable[Any]) -> bool:
    """Whether a partition has got no answer, and one is still of interest."""
    return assignment.active and any(
        state.timestamp is then and state.has_valid_position and state.position == offset
        for (tp, offset), then in zip(_asked_for(request), before, strict=True)
        for state in [assignment.state_value(tp)]
    )


def _asked_for(request: Any) -> Iterator[tuple[TopicPartition, int]]:
    for topic, partitions in request.topics:
        for partition, offset, *_ in partitions:
            yield TopicPartition(topic, partition), offset


def _as_it_is(topic_partition: Any, record: Any) -> Any:
    del topic_partition
    return record


def read_whole(partition_records: Any) -> None:
    """Make aiokafka's `PartitionRecords` yield lists of records, one a record batch.

    It must not have yielded anything yet.

    Raises:
        AttributeError: this aiokafka has other private names; nothing was changed.
    """
    if type(partition_records._records) is not _Fetched:
        fetched = _Fetched(partition_records._records, partition_records.next_fetch_offset)
        partition_records._consumer_record  # noqa: B018
        partition_records._consumer_record = _as_it_is
        partition_records._records = fetched


class WholeBatches:
    """Makes a consumer read whole record batches; they are read with `getmany` of this object then.

    Arguments:
        consumer: started, and not subscribed yet; it has no deserializers.
    """

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        try:
            self._fetcher: Any = consumer._fetcher
            self._fetch = self._fetcher._proc_fetch_request
            self._fetched = self._fetcher._records
        except AttributeError as error:
            self._give_up(error)
        else:
            self._fetcher._proc_fetch_request = self._fetch_whole

    async def _fetch_whole(self, assignment: Any, node_id: Any, request: Any) -> Any:
        before = _answered(assignment, request)
        # From the original's last step to the end of this one nothing else runs.
        has_news = await self._fetch(assignment, node_id, request)
        try:
            for result in self._fetched.values():
                partition_records = getattr(result, "_partition_records", None)
                if partition_records is not None:
                    read_whole(partition_records)
        except AttributeError as error:
            self._fetcher._proc_fetch_request = self._fetch
            self._give_up(error)
        task = asyncio.current_task()
        if (task is None or not task.cancelling()) and _any_refused(assignment, request, before):
            # aiokafka asks anew where it is for the errors that it expects, and pauses for none of them.
            self._consumer._client.force_metadata_update()
            if not has_news:
                # Cancelled is what is of no interest any more; aiokafka wants no word of that.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(_PAUSE)
        return has_news

    @staticmethod
    def _give_up(error: AttributeError) -> None:
        log.warning("this aiokafka does not hand out whole record batches (%s): slower", error)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int
    ) -> dict[TopicPartition, Sequence[Any]]:
        """Return what was fetched, as `AIOKafkaConsumer.getmany` does, errors included."""
        fetched = await self._consumer.getmany(*partitions, timeout_ms=timeout_ms)
        return {tp: self.records(found) for tp, found in fetched.items()}

    @staticmethod
    def records(fetched: Sequence[Any]) -> Sequence[Any]:
        """Return the records of one partition from what the consumer's `getmany` has of it."""
        if fetched and type(fetched[0]) is _Records:
            return fetched[0] if len(fetched) == 1 else list(chain.from_iterable(fetched))
        return fetched
