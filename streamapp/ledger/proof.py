"""What the entries of a task's ledger prove: that its ranges follow each other, or where they do not.

Pure: entries go in, in the order of the log; nothing here knows Kafka. The first entry that is kept
begins the proof, since what was before it is beyond the ledger's retention: its offsets count as
covered. A range has to begin where the one before ended. Offsets between the two are a *gap*; offsets
that another range had already are an *overlap*. What a jump lost lies within a range, and is neither.

At most once writes two entries for a range: `offsets` when it is committed, and the checkpoint when
it is processed. The first one counts; the other says that the batch was not lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from streamapp.engine.marker import LedgerEntry, LedgerJump
from streamapp.engine.settings import Guarantee

__all__ = ["Author", "Break", "Jump", "PartitionProof", "Range", "Shrunk", "TaskProof"]

MOST_SHOWN: Final = 100
"""Findings of a kind and partition that are kept to be shown; all are counted."""


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote an entry, and when (milliseconds)."""

    worker: str
    epoch: int
    sequence: int
    at: int


class Range(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"from_offset": "from", "until_offset": "until"},
):
    """Offsets that no batch has (a gap), or two have (an overlap).

    `before` is the entry up to which all was well, `None` for what came before the ledger's first;
    `after` is the entry that does not follow it.
    """

    from_offset: int
    until_offset: int
    before: Author | None
    after: Author


class Jump(msgspec.Struct, frozen=True, kw_only=True):
    """A jump of a source partition, by retention or a reset, and who wrote it down."""

    jump: LedgerJump
    author: Author


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint whose number does not follow the number before it."""

    expected: int
    before: Author
    after: Author


class Shrunk(msgspec.Struct, frozen=True, kw_only=True):
    """A changelog that ended earlier before a checkpoint than before one that came first."""

    table: str
    ended: int
    ends: int
    before: Author
    after: Author


class _Covered:
    """Offsets as disjoint intervals, in order; nearly always one."""

    def __init__(self, until: int) -> None:
        self._intervals = [(0, until)]

    def add(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Add a range; return the parts of it that were covered before."""
        last_begin, last_end = self._intervals[-1]
        if begin == last_end:
            self._intervals[-1] = (last_begin, end)
            return iter(())
        again = [
            (max(begin, other_begin), min(end, other_end))
            for other_begin, other_end in self._intervals
            if begin < other_end and other_begin < end
        ]
        merged: list[tuple[int, int]] = []
        for part_begin, part_end in sorted([*self._intervals, (begin, end)]):
            if merged and part_begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], part_end))
            else:
                merged.append((part_begin, part_end))
        self._intervals = merged
        return iter(again)


class PartitionProof:
    """The ranges of one source partition, in one task.

    Attributes:
        proven_from: where the first range that is kept begins; `None` while there is none.
        since: when it was written, in milliseconds.
        until: where the ranges end: what is committed as far as the ledger knows.
        batches: ranges with a checkpoint of their own; `records` in them.
        unprocessed, unprocessed_records: those that at most once has committed, and lost.
        pending, pending_records: the last one, if at most once has committed it and nothing follows:
            it is being processed, or was lost with its worker.
        gaps, overlaps, jumps, resets: how many; what they are is in `found_gaps` and so on.
        lost: offsets that retention took before they were read.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.proven_from: int | None = None
        self.since: int | None = None
        self.until: int | None = None
        self.batches = self.records = self.unprocessed = self.unprocessed_records = 0
        self.pending = self.pending_records = 0
        self.gaps = self.overlaps = self.jumps = self.resets = self.lost = 0
        self.found_gaps: list[Range] = []
        self.found_overlaps: list[Range] = []
        self.found_jumps: list[Jump] = []
        self.found_resets: list[Jump] = []
        self._covered = _Covered(0)
        self._last: Author | None = None
        #: What is pending: its range, its number.
        self._pending: tuple[int, int, int] | None = None

    def processes(self, begin: int, end: int, records: int, author: Author) -> bool:
        """Whether a checkpoint is the second word on a range that was committed first.

        It has less records when the agent failed, and its policy kept only those to blame.
        """
        if self._pending != (begin, end, author.sequence - 1):
            return False
        self._lose(self.pending_records - records)
        return True

    def give_up_pending(self) -> None:
        """Another entry follows: what is pending will not be processed any more."""
        if self._pending is not None:
            self._lose(self.pending_records)

    def _lose(self, records: int) -> None:
        self.unprocessed += records > 0
        self.unprocessed_records += records
        self._pending, self.pending, self.pending_records = None, 0, 0

    def cover(self, begin: int, end: int, records: int, author: Author, *, first: bool) -> None:
        """Take the range of an entry; `first` when it is committed before it is processed."""
        if self.until is None:
            self._begin(begin, author)
        assert self.until is not None
        if begin > self.until:
            self._gap(begin, author)
        if end > begin:
            self.batches += 1
            self.records += records
            for again_begin, again_end in self._covered.add(begin, end):
                self.overlaps += 1
                if len(self.found_overlaps) < MOST_SHOWN:
                    self.found_overlaps.append(self._range(again_begin, again_end, author))
            if first:
                self._pending = (begin, end, author.sequence)
                self.pending, self.pending_records = 1, records
        self.until = max(self.until, end)
        self._last = author

    def jump(self, jump: LedgerJump, author: Author) -> None:
        """Take what was lost within a range of the same entry."""
        self.jumps += 1
        self.lost += jump.until_offset - jump.from_offset
        if len(self.found_jumps) < MOST_SHOWN:
            self.found_jumps.append(Jump(jump=jump, author=author))

    def reset(self, jump: LedgerJump, author: Author, *, elsewhere: bool) -> None:
        """Begin anew elsewhere; what was committed up to there has to be in the ledger all the same.

        Arguments:
            elsewhere: in the ledger of another name, which is not read.
        """
        if not elsewhere and self.until is not None and jump.from_offset > self.until:
            self._gap(jump.from_offset, author)
        self.resets += 1
        if len(self.found_resets) < MOST_SHOWN:
            self.found_resets.append(Jump(jump=jump, author=author))
        if self.until is None:
            self.proven_from, self.since = jump.until_offset, author.at
        self.until = jump.until_offset
        self._covered = _Covered(jump.until_offset)
        self._last = author

    def _begin(self, begin: int, author: Author) -> None:
        self.proven_from, self.since, self.until = begin, author.at, begin
        self._covered = _Covered(begin)

    def _gap(self, begin: int, author: Author) -> None:
        assert self.until is not None
        self.gaps += 1
        if len(self.found_gaps) < MOST_SHOWN:
            self.found_gaps.append(self._range(self.until, begin, author))

    def _range(self, begin: int, end: int, author: Author) -> Range:
        return Range(from_offset=begin, until_offset=end, before=self._last, after=author)


class TaskProof:
    """The entries of one task, in the order of its ledger partition.

    Attributes:
        partitions: what is proven of each source topic.
        first, last: the numbers of the first and the last checkpoint that are kept.
        breaks: how often a number does not follow the one before; which ones is in `found_breaks`.
        shrunk: how often a changelog ended before where it had; which ones is in `found_shrunk`.
        guarantee, guarantees: the one of the last entry, and those of all.
    """

    def __init__(self, topology: str, partition: int) -> None:
        self.topology = topology
        self.partition = partition
        self.partitions: dict[str, PartitionProof] = {}
        self.first: int | None = None
        self.breaks = 0
        self.found_breaks: list[Break] = []
        self.shrunk = 0
        self.found_shrunk: list[Shrunk] = []
        #: Where each changelog ended at least, and who said so.
        self._ended: dict[str, tuple[int, Author]] = {}
        self.guarantees: set[str] = set()
        self.guarantee: str | None = None
        self._last: Author | None = None

    @property
    def last(self) -> int | None:
        """The number of the last checkpoint."""
        return None if self._last is None else self._last.sequence

    def partition_of(self, topic: str) -> PartitionProof:
        """Return what is proven of a source topic, nothing at first."""
        found = self.partitions.get(topic)
        if found is None:
            found = self.partitions[topic] = PartitionProof(topic, self.partition)
        return found

    def add(self, entry: LedgerEntry) -> None:
        """Take the next entry."""
        author = Author(
            worker=entry.worker, epoch=entry.epoch, sequence=entry.sequence, at=entry.at
        )
        self._follow(author, elsewhere=entry.kind == "renamed")
        self._grow(entry, author)
        self.guarantees.add(entry.guarantee)
        self.guarantee = entry.guarantee
        second = entry.kind == "checkpoint" and entry.guarantee == Guarantee.AT_MOST_ONCE.value
        new = [
            part
            for part in entry.batches
            if not (
                second
                and self.partition_of(part.topic).processes(
                    part.from_offset, part.until_offset, part.records, author
                )
            )
        ]
        processed = len(entry.batches) - len(new)
        for proof in self.partitions.values():
            proof.give_up_pending()
        for part in new:
            self.partition_of(part.topic).cover(
                part.from_offset,
                part.until_offset,
                part.records,
                author,
                first=entry.kind == "offsets",
            )
        for jump in entry.jumps:
            proof = self.partition_of(jump.topic)
            if entry.begins_anew:
                proof.reset(jump, author, elsewhere=entry.kind == "renamed")
            elif not processed:
                # The second word on a range repeats what the first one said of it.
                proof.jump(jump, author)

    def _grow(self, entry: LedgerEntry, author: Author) -> None:
        # A table that an entry does not name was taken out: should it come back, its changelog may be another.
        earlier = {} if entry.begins_anew else self._ended
        self._ended = {table: (end, author) for table, end in entry.changelogs.items()}
        for table, end in entry.changelogs.items():
            ended, before = earlier.get(table, (0, author))
            if end < ended:
                self.shrunk += 1
                if len(self.found_shrunk) < MOST_SHOWN:
                    self.found_shrunk.append(
                        Shrunk(table=table, ended=ended, ends=end, before=before, after=author)
                    )

    def _follow(self, author: Author, *, elsewhere: bool) -> None:
        """Take the number of an entry; the one before it may be in another ledger."""
        before, self._last = self._last, author
        if before is None:
            self.first = author.sequence
        elif elsewhere:
            return
        elif author.sequence != before.sequence + 1:
            self.breaks += 1
            if len(self.found_breaks) < MOST_SHOWN:
                self.found_breaks.append(
                    Break(expected=before.sequence + 1, before=before, after=author)
                )
