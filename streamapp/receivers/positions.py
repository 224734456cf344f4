"""What a receiver has committed, kept in Kafka beside what it has published.

One record a transaction on a compacted topic of one partition, keyed by the receiver's name. It
is written in the transaction that publishes, so the two can never disagree.
"""

import asyncio
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.receivers.connection import Bootstrap, client_options
from streamapp.receivers.errors import PositionError

__all__ = ["COMPACTED", "Committed", "end_of", "read_committed"]

VERSION: Final = 1

COMPACTED: Final = {
    "cleanup.policy": "compact",
    # Reading a position starts at the beginning: keep the part that is never compacted small.
    "segment.bytes": str(1 << 20),
}
"""The configuration of a positions topic."""

_READ_TIMEOUT = 30.0


class Committed(msgspec.Struct, frozen=True):
    """The state of a receiver as of its last transaction.

    Attributes:
        owner: a token of the process that committed; another one there means it was replaced.
        sequence: transactions so far; tells whether one of unknown outcome was committed.
        published: records so far; the next one goes to this partition, modulo their number.
        position: where the source goes on, as the receiver wrote it.
        version: of this format.
    """

    owner: str = ""
    sequence: int = 0
    published: int = 0
    position: msgspec.Raw = msgspec.Raw(b"null")
    version: int = VERSION

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    def is_same(self, other: "Committed") -> bool:
        """Whether both are the same transaction of the same process."""
        return (self.owner, self.sequence) == (other.owner, other.sequence)


async def read_committed(bootstrap: Bootstrap, topic: str, name: str, *, fenced: bool) -> Committed:
    """The last committed state of the receiver `name`; a fresh one if there is none.

    Args:
        bootstrap: the broker's address.
        topic: the positions topic.
        name: the receiver's name, the key of its records.
        fenced: whether the caller has just fenced whoever held the name. Then this waits until the
            last stable offset has reached the high watermark, behind which nothing is undecided.

    Raises:
        PositionError: it was written in a format that this version does not know.
        TimeoutError: the topic could not be read to its end.
        aiokafka.errors.KafkaError: the broker failed.
    """
    partition = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        **client_options(bootstrap),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    consumer.assign([partition])
    key, value = name.encode(), None
    end: int | None = None
    try:
        async with asyncio.timeout(_READ_TIMEOUT):
            await consumer.start()
            while end is None or await consumer.position(partition) < end:
                fetched = await consumer.getmany(partition, timeout_ms=50)
                for record in fetched.get(partition, ()):
                    if record.key == key:
                        value = record.value
                if end is None:
                    known = consumer.highwater if fenced else consumer.last_stable_offset
                    end = known(partition)
    finally:
        await consumer.stop()
    return Committed() if value is None else _decode(value, topic, name)


async def end_of(bootstrap: Bootstrap, topic: str, partitions: int) -> int:
    """The offsets at which the partitions of `topic` end, added up; they never go back."""
    consumer = AIOKafkaConsumer(**client_options(bootstrap), enable_auto_commit=False)
    try:
        async with asyncio.timeout(_READ_TIMEOUT):
            await consumer.start()
            ends = await consumer.end_offsets([TopicPartition(topic, p) for p in range(partitions)])
    finally:
        await consumer.stop()
    return sum(ends.values())


def _decode(value: bytes, topic: str, name: str) -> Committed:
    try:
        committed = msgspec.json.decode(value, type=Committed)
    except msgspec.DecodeError as error:
        raise PositionError(
            f"the position of receiver {name!r} on topic {topic!r} cannot be read: {error}."
            " If something else writes to that topic, publish under another --name"
        ) from error
    if committed.version != VERSION:
        raise PositionError(
            f"the position of receiver {name!r} on topic {topic!r} has version"
            f" {committed.version}, and this streamapp knows version {VERSION}: upgrade it"
        )
    return committed
