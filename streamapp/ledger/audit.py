"""The audit: what the ledger of each topology proves, held against what is committed.

It reads offsets and markers first, and the ledger after them, up to where every transaction of that
moment has ended: with workers running it finds nothing that is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiokafka import TopicPartition

from streamapp.engine.topology import Topology
from streamapp.ledger.proof import Break, Jump, PartitionProof, Range, Shrunk, TaskProof
from streamapp.ledger.reading import LedgerReader, Standing

__all__ = ["Audit", "PartitionAudit", "TaskAudit", "audit", "judge"]

#: Before each look whether group and state have come to where the ledger is, in seconds.
_PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0)


class PartitionAudit(msgspec.Struct, frozen=True, kw_only=True):
    """What is proven of one source partition of one topology.

    Attributes:
        batches, records: in the ranges that are kept in the ledger.
        gaps, overlaps: how many ranges do not begin where the one before ended.
        beyond: offsets that are committed, and in no entry of the ledger.
        behind: offsets that the ledger has, and that the group or the state is before.
        jumps, lost: by retention, and how many offsets they lost.
        resets: how often somebody let it begin elsewhere.
        unprocessed, unprocessed_records: batches that at most once committed, and lost.
        pending, pending_records: the last one, if nothing follows it yet: it is being processed, or
            was lost with its worker.
        proven_from, since: the first offset of the first range that is kept, and when it was
            written (milliseconds); `None` when none is kept.
        until: where the ranges end.
        committed: the group's offset.
        begin, end: of the partition, for those who read what is committed.
        guarantee: the one in force: of the last entry.
        guarantees: under which the entries that are kept were written.
    """

    topology: str
    topic: str
    partition: int
    batches: int = 0
    records: int = 0
    gaps: int = 0
    overlaps: int = 0
    beyond: int = 0
    behind: int = 0
    jumps: int = 0
    lost: int = 0
    resets: int = 0
    unprocessed: int = 0
    unprocessed_records: int = 0
    pending: int = 0
    pending_records: int = 0
    proven_from: int | None = None
    since: int | None = None
    until: int | None = None
    committed: int | None = None
    begin: int | None = None
    end: int | None = None
    guarantee: str | None = None
    guarantees: tuple[str, ...] = ()
    found_gaps: tuple[Range, ...] = ()
    found_overlaps: tuple[Range, ...] = ()
    found_jumps: tuple[Jump, ...] = ()
    found_resets: tuple[Jump, ...] = ()

    @property
    def lag(self) -> int | None:
        """Offsets that are not committed yet, control records among them."""
        if self.end is None or self.begin is None:
            return None
        done = self.committed if self.committed is not None else self.until
        return max(0, self.end - max(self.begin, done or 0))

    @property
    def well(self) -> bool:
        """Whether its ranges follow each other, up to what is committed."""
        return not (self.gaps or self.overlaps or self.beyond or self.behind)


class TaskAudit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the checkpoints of one task are all there.

    Attributes:
        first, last: their numbers, of those that are kept.
        breaks: how often a number does not follow the one before.
        shrunk: how often a changelog ended before where it had: it was made anew, or truncated.
        marked: the number in the task's marker, which its state is at.
        beyond: checkpoints of the state that are not in the ledger.
        behind: checkpoints of the ledger that the state is before.
    """

    topology: str
    partition: int
    first: int | None = None
    last: int | None = None
    breaks: int = 0
    shrunk: int = 0
    marked: int | None = None
    beyond: int = 0
    behind: int = 0
    found_breaks: tuple[Break, ...] = ()
    found_shrunk: tuple[Shrunk, ...] = ()

    @property
    def well(self) -> bool:
        """Whether no checkpoint is missing, and no changelog has lost anything."""
        return not (self.breaks or self.beyond or self.behind or self.shrunk)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit has found, by source partition and by task."""

    partitions: tuple[PartitionAudit, ...]
    tasks: tuple[TaskAudit, ...]

    @property
    def well(self) -> bool:
        """Whether there is no gap, no overlap, and nothing committed beyond the ledger."""
        return all(part.well for part in self.partitions) and all(t.well for t in self.tasks)

    def total(self, name: str) -> int:
        """Return the sum of a count over all source partitions."""
        return sum(getattr(part, name) for part in self.partitions)


async def audit(kafka_options: Mapping[str, Any], topologies: Iterable[Topology]) -> Audit:
    """Read the ledgers of topologies and judge them; nothing is written.

    Raises:
        LedgerError: no broker answers, or a ledger cannot be read to its end.
        StoreError: an entry is of another format.
    """
    partitions: list[PartitionAudit] = []
    tasks: list[TaskAudit] = []
    async with LedgerReader(kafka_options) as reader:
        for topology in topologies:
            standing = await reader.standing(topology)
            ledger = await reader.partitions(topology.ledger_topic)
            ends = await reader.stable_ends(ledger)
            begins = await reader.begins(ledger)
            proofs = {tp.partition: TaskProof(topology.name, tp.partition) for tp in ledger}
            async for tp, entry in reader.entries({tp: (begins[tp], ends[tp]) for tp in ledger}):
                proofs[tp.partition].add(entry)
            written = {tp.partition for tp in ledger if ends[tp]}
            bounds = (
                await reader.begins(standing.partitions),
                await reader.ends(standing.partitions),
            )
            for pause in _PAUSES:
                await asyncio.sleep(pause)
                # What the ledger has is committed by now, markers and offsets with it, or will show in a moment.
                later = await reader.standing(topology)
                judged = judge(topology, proofs, standing, written, bounds, later)
                if not judged.total("behind") and not any(task.behind for task in judged.tasks):
                    break
            partitions += judged.partitions
            tasks += judged.tasks
    return Audit(partitions=tuple(partitions), tasks=tuple(tasks))


def judge(
    topology: Topology,
    proofs: Mapping[int, TaskProof],
    standing: Standing,
    written: Iterable[int],
    bounds: tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]],
    later: Standing,
) -> Audit:
    """Hold what the ledger of a topology proves against where the topology stands.

    Arguments:
        written: the ledger partitions that have ever had an entry: in one that has none left,
            retention took them; in one that never had any, nothing can have been committed.
        standing, later: where the topology stood before the ledger was read, and after that.
        bounds: where the source partitions begin, and where they end.
    """
    written = set(written)
    begins, ends = bounds
    partitions = []
    for tp in standing.partitions:
        task = proofs.get(tp.partition)
        proof = None if task is None else task.partitions.get(tp.topic)
        marker = standing.markers.get(tp.partition)
        marked = None if marker is None else marker.sources.get(tp.topic)
        committed = standing.committed.get(tp)
        known = (proof or PartitionProof(tp.topic, tp.partition)).until
        if known is not None:
            beyond = max(0, max(committed or 0, marked or 0) - known)
        elif tp.partition not in written and marker is not None and marker.sequence:
            beyond = max(committed or 0, marked or 0)
        else:
            # Before its first checkpoint a group may have offsets of its own, and a ledger whose
            # entries are all too old says nothing.
            beyond = 0
        found = {} if proof is None else _found(proof)
        partitions.append(
            PartitionAudit(
                topology=topology.name,
                topic=tp.topic,
                partition=tp.partition,
                beyond=beyond,
                behind=_behind(tp, known, later),
                committed=committed,
                begin=begins.get(tp),
                end=ends.get(tp),
                guarantee=None if task is None or proof is None else task.guarantee,
                guarantees=() if task is None or proof is None else tuple(sorted(task.guarantees)),
                **found,
            )
        )
    tasks = [
        _task(topology, number, proofs.get(number), standing, number in written, later)
        for number in sorted({*proofs, *standing.markers})
    ]
    return Audit(partitions=tuple(partitions), tasks=tuple(tasks))


def _behind(tp: TopicPartition, known: int | None, later: Standing) -> int:
    """Return how many offsets the group or the state is before what the ledger says; a group may know none."""
    marker = later.markers.get(tp.partition)
    marked = None if marker is None else marker.sources.get(tp.topic)
    stands = [offset for offset in (later.committed.get(tp), marked) if offset is not None]
    return 0 if known is None or not stands else max(0, known - min(stands))


def _found(proof: PartitionProof) -> dict[str, Any]:
    names = (set(PartitionAudit.__struct_fields__) - {"topic", "partition"}) & vars(proof).keys()
    found = {name: getattr(proof, name) for name in names}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }


def _task(
    topology: Topology,
    number: int,
    proof: TaskProof | None,
    standing: Standing,
    written: bool,
    later: Standing,
) -> TaskAudit:
    marker = standing.markers.get(number)
    last = None if proof is None else proof.last
    beyond = 0
    if marker is not None and (last is not None or not written):
        beyond = max(0, marker.sequence - (last or 0))
    at = later.markers.get(number)
    return TaskAudit(
        topology=topology.name,
        partition=number,
        first=None if proof is None else proof.first,
        last=last,
        breaks=0 if proof is None else proof.breaks,
        shrunk=0 if proof is None else proof.shrunk,
        marked=None if marker is None else marker.sequence,
        beyond=beyond,
        behind=max(0, (last or 0) - (0 if at is None else at.sequence)),
        found_breaks=() if proof is None else tuple(proof.found_breaks),
        found_shrunk=() if proof is None else tuple(proof.found_shrunk),
    )
