"""The offsets that consumer groups have committed, and those that wait for a transaction's end.

An offset committed in a transaction is nobody's until the transaction commits (KIP-98); a reader
that asks for stable offsets (KIP-447) is told to wait while there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .events import (
    Committed,
    GroupDeleted,
    OffsetsCommitted,
    OffsetsDeleted,
    OffsetsPending,
    TopicPartition,
)

#: Kafka's `offset.metadata.max.bytes`.
MAX_METADATA_BYTES: Final = 4096


class Offsets:
    """Committed and pending offsets, by group. Changes come in as events."""

    def __init__(self) -> None:
        self._committed: dict[str, dict[TopicPartition, Committed]] = {}
        #: By producer id, then group.
        self._pending: dict[int, dict[str, dict[TopicPartition, Committed]]] = {}

    def groups(self) -> Iterator[str]:
        """Groups that have committed something."""
        return iter(self._committed)

    def of(self, group: str) -> dict[TopicPartition, Committed]:
        """What a group has committed; not to be changed."""
        return self._committed.get(group, {})

    def is_pending(self, group: str, partition: TopicPartition) -> bool:
        """Whether an open transaction is about to commit an offset there."""
        return any(partition in groups.get(group, ()) for groups in self._pending.values())

    # -- events --------------------------------------------------------------------------------

    def committed(self, event: OffsetsCommitted) -> None:
        offsets = self._committed.setdefault(event.group, {})
        for topic, partition, committed in event.offsets:
            offsets[topic, partition] = committed

    def pending(self, event: OffsetsPending) -> None:
        offsets = self._pending.setdefault(event.producer_id, {}).setdefault(event.group, {})
        for topic, partition, committed in event.offsets:
            offsets[topic, partition] = committed

    def transaction_ended(self, producer_id: int, *, committed: bool) -> None:
        for group, offsets in self._pending.pop(producer_id, {}).items():
            if committed:
                self._committed.setdefault(group, {}).update(offsets)

    def deleted(self, event: OffsetsDeleted) -> None:
        offsets = self._committed.get(event.group, {})
        for partition in event.partitions:
            offsets.pop(partition, None)
        if not offsets:
            self._committed.pop(event.group, None)

    def group_deleted(self, event: GroupDeleted) -> None:
        self._committed.pop(event.group, None)

    def topic_deleted(self, topic: str) -> None:
        """Kafka forgets a deleted topic's offsets; a new topic of the name begins anew."""
        for group, offsets in list(self._committed.items()):
            for partition in [each for each in offsets if each[0] == topic]:
                del offsets[partition]
            if not offsets:
                del self._committed[group]
        for groups in self._pending.values():
            for offsets in groups.values():
                for partition in [each for each in offsets if each[0] == topic]:
                    del offsets[partition]

    def snapshot(self) -> Iterator[OffsetsCommitted | OffsetsPending]:
        """The events that lead to the offsets as they are."""
        for group, offsets in self._committed.items():
            yield OffsetsCommitted(group, [(*tp, each) for tp, each in offsets.items()])
        for producer_id, groups in self._pending.items():
            for group, offsets in groups.items():
                yield OffsetsPending(
                    producer_id, group, [(*tp, each) for tp, each in offsets.items()]
                )
