"""The latest batches, a line each, put together from the entries of the ledger.

How long a checkpoint took to commit is in the entry after it: of a task's last batch nobody knows it
yet. At most once writes two entries for a batch: the second one, which has what came out, is shown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Final

import msgspec
from aiokafka import TopicPartition

from streamapp.engine.marker import LedgerBatch, LedgerEntry
from streamapp.engine.topology import Topology
from streamapp.ledger.reading import LedgerReader

__all__ = ["CommittedBatch", "batch_id", "batches_of", "following", "latest_batches"]

#: Offsets that an entry takes: itself, and the control record of its transaction.
_OFFSETS_AN_ENTRY: Final = 2


class CommittedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that is committed. Times are milliseconds since the epoch, durations milliseconds.

    What came out is of its whole checkpoint, which may have batches of other topics of its task too.

    Attributes:
        committed_only: at most once has not processed it, or not yet.
        commit: how long its transaction took to commit, `None` as long as that is unknown.
    """

    id: str
    topology: str
    sequence: int
    records: int
    outputs: int
    changes: int
    late: int
    dead_letters: int
    watermark: int | None
    processing: float
    commit: float | None
    worker: str
    at: int
    committed_only: bool = False


def batch_id(batch: LedgerBatch) -> str:
    """Return the id of a batch: `topic:partition:from-until`."""
    return f"{batch.topic}:{batch.partition}:{batch.from_offset}-{batch.until_offset}"


def batches_of(entry: LedgerEntry, after: LedgerEntry | None) -> Iterator[CommittedBatch]:
    """Yield the batches of an entry; `after` is the next one of its task, if there is one.

    None of an entry whose batches the next one has again.
    """
    first = entry.kind == "offsets"
    if (
        first
        and after is not None
        and after.kind == "checkpoint"
        and after.batches == entry.batches
    ):
        return
    for batch in entry.batches:
        if batch.from_offset == batch.until_offset:
            continue
        yield CommittedBatch(
            id=batch_id(batch),
            topology=entry.topology,
            sequence=entry.sequence,
            records=batch.records,
            outputs=entry.outputs,
            changes=entry.changes,
            late=entry.late,
            dead_letters=entry.dead_letters,
            watermark=entry.watermark,
            processing=entry.processing,
            commit=None if after is None else after.previous_commit,
            worker=entry.worker,
            at=entry.at,
            committed_only=first,
        )


def _all_batches(entries: Iterable[LedgerEntry]) -> Iterator[CommittedBatch]:
    before: LedgerEntry | None = None
    for entry in entries:
        if before is not None:
            yield from batches_of(before, entry)
        before = entry
    if before is not None:
        yield from batches_of(before, None)


async def latest_batches(
    reader: LedgerReader, topologies: Iterable[Topology], limit: int
) -> tuple[list[CommittedBatch], dict[TopicPartition, int]]:
    """Return the latest batches, oldest first, and up to where each ledger partition was read."""
    ledgers = await reader.partitions(*(topology.ledger_topic for topology in topologies))
    begins, ends = await reader.begins(ledgers), await reader.ends(ledgers)
    found: list[CommittedBatch] = []
    left, step = ledgers, _OFFSETS_AN_ENTRY * (limit + 1)
    while left:
        entries: dict[TopicPartition, list[LedgerEntry]] = {tp: [] for tp in left}
        spans = {tp: (max(begins[tp], ends[tp] - step), ends[tp]) for tp in left}
        async for tp, entry in reader.entries(spans):
            entries[tp].append(entry)
        again = []
        for tp, of_task in entries.items():
            batches = list(_all_batches(of_task))
            if len(batches) >= limit or spans[tp][0] <= begins[tp]:
                found += batches[-limit:]
            else:
                # Checkpoints of time have no batches.
                again.append(tp)
        left, step = again, step * 4
    found.sort(key=lambda batch: batch.at)
    return found[-limit:], ends


async def following(
    reader: LedgerReader, positions: Mapping[TopicPartition, int]
) -> AsyncIterator[CommittedBatch]:
    """Yield batches as they are committed, from some positions of the ledgers on, without an end.

    How long a commit took is not known by then. What at most once commits first is not shown; what
    it lost is what `latest_batches` shows as committed only.
    """
    if not positions:
        return
    async for _, entry in reader.new_entries(positions):
        if entry.kind == "checkpoint":
            for batch in batches_of(entry, None):
                yield batch
