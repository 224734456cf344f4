"""The facts that the broker's own journal records: topics, producers, transactions, offsets, groups.

State is what these events add up to; a snapshot is the shortest list of events that adds up to the
same. Records themselves are in the partitions' logs. The format carries a version, in `Began`.
"""

from __future__ import annotations

from typing import Final

import msgspec

FORMAT: Final = 1

#: A topic's name and a partition's number.
TopicPartition = tuple[str, int]


class Event(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Something that happened, in the order in which it happened."""


class Began(Event, frozen=True, tag="format"):
    """The first event of every journal."""

    version: int
    cluster_id: str


class TopicCreated(Event, frozen=True, tag="topic"):
    name: str
    topic_id: int
    partitions: int
    configs: dict[str, str]


class TopicDeleted(Event, frozen=True, tag="topic-"):
    name: str


class PartitionsAdded(Event, frozen=True, tag="partitions"):
    name: str
    partitions: int


class ConfigsSet(Event, frozen=True, tag="configs"):
    name: str
    configs: dict[str, str]


class LogTrimmed(Event, frozen=True, tag="trim"):
    """The log starts at `offset` now."""

    name: str
    partition: int
    offset: int


class LogCleaned(Event, frozen=True, tag="clean"):
    """The log is compacted below `until`; `cleanings` says since when, while it matters."""

    name: str
    partition: int
    until: int
    cleanings: list[tuple[int, int]]


class ProducerIdsGiven(Event, frozen=True, tag="ids"):
    """Producer ids below `until` may be in use."""

    until: int


class TransactionalIdSet(Event, frozen=True, tag="txn"):
    """A transactional id is this producer's, in this epoch; no transaction is open."""

    transactional_id: str
    producer_id: int
    epoch: int
    timeout_ms: int
    committed: bool | None = None


class TransactionGrew(Event, frozen=True, tag="txn+"):
    """Partitions and groups take part in the transaction, which is open now."""

    transactional_id: str
    started_ms: int
    partitions: list[TopicPartition]
    groups: list[str]


class TransactionEnded(Event, frozen=True, tag="txn-"):
    """The one commit point: markers follow from it, also after a crash."""

    transactional_id: str
    committed: bool
    epoch: int


class Committed(msgspec.Struct, frozen=True, array_like=True):
    """A committed offset."""

    offset: int
    leader_epoch: int
    metadata: str
    time_ms: int


class OffsetsCommitted(Event, frozen=True, tag="offsets"):
    group: str
    offsets: list[tuple[str, int, Committed]]


class OffsetsPending(Event, frozen=True, tag="offsets+"):
    """Offsets of an open transaction: they are the group's once it commits."""

    producer_id: int
    group: str
    offsets: list[tuple[str, int, Committed]]


class OffsetsDeleted(Event, frozen=True, tag="offsets-"):
    group: str
    partitions: list[TopicPartition]


class GroupDeleted(Event, frozen=True, tag="group-"):
    group: str


class SavedMember(msgspec.Struct, frozen=True, array_like=True):
    """A member of a group, as it was when the group became stable."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocols: list[tuple[str, bytes]]
    assignment: bytes


class GroupSaved(Event, frozen=True, tag="group"):
    """A group has its assignment, or is empty."""

    group: str
    generation: int
    protocol_type: str
    protocol: str | None
    leader: str | None
    members: list[SavedMember]


AnyEvent = (
    Began
    | TopicCreated
    | TopicDeleted
    | PartitionsAdded
    | ConfigsSet
    | LogTrimmed
    | LogCleaned
    | ProducerIdsGiven
    | TransactionalIdSet
    | TransactionGrew
    | TransactionEnded
    | OffsetsCommitted
    | OffsetsPending
    | OffsetsDeleted
    | GroupDeleted
    | GroupSaved
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEvent] = msgspec.msgpack.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """The event as it is written to the journal."""
    return _encoder.encode(event)


def decode(data: bytes | memoryview) -> AnyEvent:
    """The event that `data` holds; `msgspec.MsgspecError` if it holds none."""
    return _decoder.decode(data)
