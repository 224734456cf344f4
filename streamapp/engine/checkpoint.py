"""What goes into a batch of a task, and the checkpoint that comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from streamapp.engine.batch import Record
from streamapp.engine.marker import LedgerBatch, LedgerEntry, LedgerJump, Marker
from streamapp.engine.outbox import Outgoing
from streamapp.engine.provision import TOMBSTONES_KEPT
from streamapp.engine.topology import Topology
from streamapp.state.store import TableWrites

__all__ = ["Checkpoint", "Slice", "Surroundings", "WindowRecord"]


class Slice(NamedTuple):
    """What was fetched of one source partition: records, where the range ends, and what it lacks."""

    topic: str
    from_offset: int
    until_offset: int
    records: Sequence[Record]
    #: Ranges of offsets within it that were removed before they were read.
    lost: Sequence[tuple[int, int]] = ()

    def batch(self, partition: int, records: int) -> LedgerBatch:
        """Return its line in the ledger, with how many records an agent was given."""
        return LedgerBatch(
            topic=self.topic,
            partition=partition,
            from_offset=self.from_offset,
            until_offset=self.until_offset,
            records=records,
        )

    def jumps(self, partition: int) -> list[LedgerJump]:
        """Return what the ledger says of the lost ranges."""
        return [
            LedgerJump(
                topic=self.topic,
                partition=partition,
                from_offset=begin,
                until_offset=end,
                why="retention",
            )
            for begin, end in self.lost
        ]


class WindowRecord(msgspec.Struct):
    """What a windowed table sends of a window: times in milliseconds, `final` once it is closed."""

    key: Any
    start: int
    end: int
    value: Any
    final: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a task has to know of the world.

    Attributes:
        clock: milliseconds since the epoch.
        partitions: partition counts of the topics that the application uses.
        limits: the largest record of each topic, in bytes.
        worker: who runs it, for the ledger.
        cluster: the id of the Kafka cluster: a store is of one cluster.
        tombstones: how long topics keep deletes that compaction has come by, in milliseconds, where
            that is not what the engine makes changelogs with.
    """

    clock: Callable[[], int]
    partitions: dict[str, int]
    limits: dict[str, int]
    worker: str
    dead_letter_topic: str
    cluster: str = ""
    tombstones: dict[str, int] = field(default_factory=dict)

    def tombstones_kept(self, topology: Topology) -> int:
        """Return for how long, in milliseconds, a store of a topology can be away and miss no delete."""
        changelogs = [topology.changelog(table.name) for table in topology.tables]
        return min(
            (self.tombstones.get(name, TOMBSTONES_KEPT) for name in changelogs),
            default=TOMBSTONES_KEPT,
        )


@dataclass(slots=True)
class Checkpoint:
    """What one transaction publishes, and one write batch brings to disk."""

    marker: Marker
    entry: LedgerEntry
    outputs: list[Outgoing] = field(default_factory=list)
    writes: list[TableWrites] = field(default_factory=list)

    def leaving(self, topology: Topology) -> list[Outgoing]:
        """Take out the outputs that leave the application; the others are state on its way.

        At least once sends them outside of the transaction. What goes through a `key_by` stays in it,
        for it is counted by the application itself, and state is exact under every guarantee.
        """
        inside = {key_by.name for key_by in topology.key_bys}
        leaving = [record for record in self.outputs if record.topic not in inside]
        self.outputs = [record for record in self.outputs if record.topic in inside]
        return leaving

    def changelog(self, topology: Topology, partition: int) -> Iterable[Outgoing]:
        """Yield the changelog records: the last value of each dirty key, tombstones last."""
        for writes in self.writes:
            topic = topology.changelog(writes.table)
            for key, value in writes.puts:
                yield Outgoing(topic, key, value, partition)
            for key in writes.deletes:
                yield Outgoing(topic, key, None, partition)
