"""What a batch sends: kept in order until its checkpoint publishes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from streamapp.errors import RecordError
from streamapp.state.ended import Ended

__all__ = ["Headers", "Outbox", "Outgoing", "misdirected", "no_partition"]

Headers = Sequence[tuple[str, bytes]]

#: What a record costs beside its key, value and headers; Kafka's batch header included.
RECORD_OVERHEAD = 128


class Outgoing(NamedTuple):
    """One record on its way out; without a partition, its key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    timestamp: int | None = None
    headers: Headers = ()

    @property
    def size(self) -> int:
        """An upper bound of the bytes that the record needs in a batch of its own."""
        size = RECORD_OVERHEAD + len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name) + len(value or b"") + 10 for name, value in self.headers)


class Outbox:
    """The records of one batch.

    Arguments:
        limits: the largest record that a topic takes, in bytes.
        default_limit: the same for topics that are not in `limits`.
        partitions: partition counts of topics, as far as they are known.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        default_limit: int,
        partitions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._limits = limits
        self._default_limit = default_limit
        self._partitions = partitions
        self.records: list[Outgoing] = []

    def put(self, record: Outgoing) -> None:
        """Add a record.

        Raises:
            RecordError: it is larger than its topic takes, or for a partition that is not there.
        """
        limit = self._limits.get(record.topic, self._default_limit)
        if record.size > limit:
            raise RecordError(
                f"a record for {record.topic} with key {_shown(record.key)} needs {record.size:,} bytes, the topic "
                f"takes {limit:,}: send less, or raise the topic's max.message.bytes and the app's max_record_bytes"
            )
        if record.partition is not None:
            error = misdirected([record], self._partitions)
            if error is not None:
                raise error
        self.records.append(record)

    def limit(self, topic: str) -> int:
        """Return the largest record that a topic takes, in bytes."""
        return self._limits.get(topic, self._default_limit)

    def take(self) -> list[Outgoing]:
        """Return the records, and begin anew."""
        records, self.records = self.records, []
        return records

    def end(self) -> None:
        """The batch is over: what was not taken is dropped, and nothing is sent any more."""
        ended: Any = Ended("a topic's send()")
        self.records = ended


def misdirected(records: Iterable[Outgoing], partitions: Mapping[str, int]) -> RecordError | None:
    """Return the error of the first record for a partition that is not there.

    Arguments:
        partitions: partition counts of topics, as far as they are known.
    """
    for record in records:
        if record.partition is not None:
            count = partitions.get(record.topic)
            if count is not None and not 0 <= record.partition < count:
                return no_partition(record.topic, record.partition, count)
    return None


def no_partition(topic: str, partition: int, count: int) -> RecordError:
    """Return the error of a record for a partition that is not there."""
    return RecordError(
        f"a record is sent to partition {partition} of {topic}, which has {count}: send it to one of "
        "those, or let its key decide"
    )


def _shown(key: bytes | None) -> str:
    if key is None:
        return "none"
    return repr(key[:40]) + ("…" if len(key) > 40 else "")
