"""Topics in memory: what Kafka is to the engine, without the network.

A partition is a list and an offset is an index into it: there are no control records, since only
committed transactions are ever written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aiokafka.partitioner import DefaultPartitioner

from streamapp.engine.outbox import Headers, Outgoing, no_partition

__all__ = ["Log", "LoggedRecord"]

_partition_of = DefaultPartitioner()


class LoggedRecord(NamedTuple):
    """A record as a consumer gets it, and where it is."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Log:
    """Topics with their partitions; a topic that nobody declared is made when it is written to.

    Attributes:
        partitions: partition counts by topic; the engine looks at this very dictionary.
        default_partitions: of topics that are not in it.
    """

    def __init__(self, default_partitions: int) -> None:
        self.partitions: dict[str, int] = {}
        self.default_partitions = default_partitions
        self._records: dict[tuple[str, int], list[LoggedRecord]] = {}

    def append(self, records: Iterable[Outgoing], now: int, keyless: int) -> list[LoggedRecord]:
        """Write the records of a transaction; return them as they were written.

        Arguments:
            now: the timestamp of records without one, in milliseconds.
            keyless: decides the partition of records without a key, as the engine's producer does.
        """
        written = []
        for record in records:
            partition = self._partition(record, keyless)
            end = self.read(record.topic, partition)
            logged = LoggedRecord(
                record.topic,
                partition,
                len(end),
                now if record.timestamp is None else record.timestamp,
                record.key,
                record.value,
                tuple(record.headers),
            )
            end.append(logged)
            written.append(logged)
        return written

    def _partition(self, record: Outgoing, keyless: int) -> int:
        count = self.partitions.setdefault(record.topic, self.default_partitions)
        if record.partition is not None:
            if not 0 <= record.partition < count:
                raise no_partition(record.topic, record.partition, count)
            return record.partition
        if record.key is None:
            return keyless % count
        partitions = list(range(count))
        chosen: int = _partition_of(record.key, partitions, partitions)
        return chosen

    def read(self, topic: str, partition: int) -> list[LoggedRecord]:
        """Return the records of a partition, in order; the list grows with it."""
        return self._records.setdefault((topic, partition), [])

    def end(self, topic: str, partition: int) -> int:
        """Return the offset of the next record of a partition."""
        return len(self.read(topic, partition))
