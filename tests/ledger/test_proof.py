"""What entries prove, against offsets counted one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.engine.marker import LedgerBatch, LedgerEntry, LedgerJump, Marker
from streamapp.ledger.proof import TaskProof
from streamapp.ledger.reset import reset_entry
from tests.state.quick import QUICK

TOPICS = st.sampled_from(["a", "b"])


def an_entry(
    sequence: int,
    *ranges: tuple[str, int, int],
    kind: str = "checkpoint",
    guarantee: str = "exactly_once",
    **more: Any,
) -> LedgerEntry:
    """An entry whose ranges have a record an offset."""
    return LedgerEntry(
        kind=kind,
        topology="count",
        partition=3,
        sequence=sequence,
        worker=more.pop("worker", "ada"),
        epoch=more.pop("epoch", 1),
        guarantee=guarantee,
        at=1_000 * sequence,
        batches=[
            LedgerBatch(
                topic=topic,
                partition=3,
                from_offset=begin,
                until_offset=end,
                records=end - begin,
            )
            for topic, begin, end in ranges
        ],
        **more,
    )


def a_jump(topic: str, begin: int, end: int, why: str = "retention") -> LedgerJump:
    return LedgerJump(topic=topic, partition=3, from_offset=begin, until_offset=end, why=why)


def proven(*entries: LedgerEntry) -> TaskProof:
    proof = TaskProof("count", 3)
    for entry in entries:
        proof.add(entry)
    return proof


@dataclass
class Counted:
    """A source partition as the oracle has it: each offset on its own."""

    first: int | None = None
    end: int = 0
    batches: int = 0
    covered: set[int] = field(default_factory=set)
    missing: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)

    def take(self, begin: int, end: int) -> None:
        if self.first is None:
            self.restart(begin)
            self.first = begin
        self.missing += range(self.end, begin)
        self.twice += self.covered & {*range(begin, end)}
        self.covered |= {*range(begin, end)}
        self.batches += end > begin
        self.end = max(self.end, end)

    def restart(self, begin: int) -> None:
        self.end, self.covered = begin, {*range(begin)}


STEPS = st.lists(
    st.one_of(
        # A range of a topic: how far from where the last one ended it begins, and how long it is.
        st.tuples(
            st.just("range"), TOPICS, st.sampled_from([0, 0, 0, 0, -3, -1, 1, 4]), st.integers(0, 6)
        ),
        st.tuples(st.just("reset"), TOPICS, st.integers(0, 20), st.just(0)),
        st.tuples(st.just("time"), TOPICS, st.just(0), st.just(0)),
        st.tuples(st.just("lost entry"), TOPICS, st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(QUICK, max_examples=300)
@given(STEPS, st.integers(0, 10), st.integers(1, 5))
def test_gaps_and_overlaps_are_those_of_offsets_counted_one_by_one(
    steps: list[tuple[str, str, int, int]], start: int, sequence: int
) -> None:
    proof = TaskProof("count", 3)
    counted = {"a": Counted(), "b": Counted()}
    breaks = written = 0
    skipped = False
    for step, topic, offset, length in steps:
        oracle = counted[topic]
        stands = oracle.end if oracle.first is not None else start
        if step == "lost entry":
            skipped, sequence = skipped or written > 0, sequence + 1
            continue
        if step == "range":
            begin = max(0, stands + offset)
            oracle.take(begin, begin + length)
            proof.add(an_entry(sequence, (topic, begin, begin + length)))
        elif step == "reset":
            marker = Marker(sequence=sequence - 1, sources={topic: stands})
            proof.add(
                reset_entry(
                    "count", 3, marker, {topic: offset}, why="", worker="", guarantee="", at=0
                )
            )
            oracle.restart(offset)
            oracle.first = offset if oracle.first is None else oracle.first
        else:
            proof.add(an_entry(sequence))
        breaks, skipped, written = breaks + skipped, False, written + 1
        sequence += 1

    assert proof.breaks == breaks
    for topic, oracle in counted.items():
        found = proof.partition_of(topic)
        assert found.proven_from == oracle.first
        assert found.until == (None if oracle.first is None else oracle.end)
        assert found.batches == oracle.batches
        assert offsets_of(found.found_gaps) == sorted(oracle.missing)
        assert offsets_of(found.found_overlaps) == sorted(oracle.twice)
        assert found.gaps == len(found.found_gaps)
        assert found.overlaps == len(found.found_overlaps)


def offsets_of(ranges: Any) -> list[int]:
    return sorted(o for each in ranges for o in range(each.from_offset, each.until_offset))


def test_an_overlap_names_both_workers_and_their_epochs() -> None:
    proof = proven(
        an_entry(7, ("a", 10, 20), worker="ada", epoch=2),
        an_entry(8, ("a", 15, 25), worker="bob", epoch=5),
    )
    [overlap] = proof.partition_of("a").found_overlaps
    assert (overlap.from_offset, overlap.until_offset) == (15, 20)
    assert overlap.before is not None
    assert (overlap.before.worker, overlap.before.epoch, overlap.before.sequence) == ("ada", 2, 7)
    assert (overlap.after.worker, overlap.after.epoch, overlap.after.sequence) == ("bob", 5, 8)


def test_what_is_before_the_first_entry_that_is_kept_was_done() -> None:
    proof = proven(an_entry(7, ("a", 10, 20)), an_entry(8, ("a", 5, 8)))
    [overlap] = proof.partition_of("a").found_overlaps
    assert (overlap.from_offset, overlap.until_offset) == (5, 8)


def test_a_jump_within_a_range_is_neither_a_gap_nor_an_overlap() -> None:
    proof = proven(
        an_entry(1, ("a", 0, 5)), an_entry(2, ("a", 5, 20), jumps=[a_jump("a", 6, 16)])
    ).partition_of("a")
    assert (proof.gaps, proof.overlaps, proof.jumps, proof.lost, proof.until) == (0, 0, 1, 10, 20)


# ---------------------------------------------------------------------- at most once


def first(sequence: int, *ranges: tuple[str, int, int], **more: Any) -> LedgerEntry:
    return an_entry(sequence, *ranges, kind="offsets", guarantee="at_most_once", **more)


def second(sequence: int, *ranges: tuple[str, int, int], **more: Any) -> LedgerEntry:
    return an_entry(sequence, *ranges, guarantee="at_most_once", **more)


def test_at_most_once_the_second_entry_of_a_range_is_no_overlap() -> None:
    jump = [a_jump("a", 1, 3)]
    task = proven(
        first(1, ("a", 0, 5), ("b", 0, 2), jumps=jump),
        second(2, ("a", 0, 5), ("b", 0, 2), jumps=jump),
        first(3, ("a", 5, 9)),
        second(4, ("a", 5, 9)),
    )
    proof = task.partition_of("a")
    assert (proof.batches, proof.records, proof.until) == (2, 9, 9)
    assert (proof.gaps, proof.overlaps, proof.unprocessed) == (0, 0, 0)
    assert (proof.jumps, proof.lost) == (1, 2)
    assert task.partition_of("b").batches == 1


def test_at_most_once_a_range_that_was_only_committed_is_lost_and_no_gap() -> None:
    proof = proven(
        first(1, ("a", 0, 5)), first(2, ("a", 5, 9)), second(3, ("a", 5, 9)), first(4, ("a", 9, 10))
    ).partition_of("a")
    assert (proof.gaps, proof.overlaps, proof.unprocessed) == (0, 0, 1)
    assert (proof.unprocessed_records, proof.pending, proof.pending_records) == (5, 1, 1)


def test_at_most_once_what_an_agent_failed_over_is_lost_but_for_the_dead_letters() -> None:
    failed = second(2, ("a", 0, 5))
    failed.batches[0].records = 1
    proof = proven(first(1, ("a", 0, 5)), failed, first(3, ("a", 5, 6))).partition_of("a")
    assert (proof.gaps, proof.overlaps) == (0, 0)
    assert (proof.unprocessed, proof.unprocessed_records) == (1, 4)


def test_a_changelog_that_ends_before_where_it_ended_is_found() -> None:
    entries = [an_entry(number, ("a", number, number + 1)) for number in range(1, 6)]
    for entry, end in zip(entries, (3, 7, 7, 2, 5), strict=True):
        entry.changelogs = {"counts": end, "other": 1}
    task = proven(*entries)
    [found] = task.found_shrunk
    assert (task.shrunk, found.table, found.ended, found.ends) == (1, "counts", 7, 2)
    assert (found.before.sequence, found.after.sequence) == (3, 4)


def test_a_table_that_comes_back_may_have_another_changelog() -> None:
    entries = [an_entry(number, ("a", number, number + 1)) for number in range(1, 4)]
    entries[0].changelogs = {"counts": 7, "other": 1}
    entries[1].changelogs = {"other": 1}
    entries[2].changelogs = {"counts": 2, "other": 1}
    assert proven(*entries).shrunk == 0


def test_a_reset_may_follow_a_changelog_that_was_made_anew() -> None:
    before, after = an_entry(1, ("a", 0, 1)), an_entry(3, ("a", 0, 1))
    before.changelogs, after.changelogs = {"counts": 7}, {"counts": 2}
    reset = reset_entry(
        "count",
        0,
        Marker(sequence=1, sources={"a": 1}),
        {"a": 0},
        why="a test",
        worker="test",
        guarantee="exactly_once",
        at=0,
    )
    assert proven(before, reset, after).shrunk == 0


def test_at_most_once_a_range_that_is_processed_twice_is_an_overlap() -> None:
    proof = proven(first(1, ("a", 0, 5)), second(2, ("a", 0, 5)), second(3, ("a", 0, 5)))
    assert proof.partition_of("a").overlaps == 1


def test_at_most_once_may_begin_with_the_second_entry_of_a_range() -> None:
    proof = proven(second(2, ("a", 0, 5)), first(3, ("a", 5, 6)), second(4, ("a", 5, 6)))
    found = proof.partition_of("a")
    assert (found.proven_from, found.batches, found.gaps, found.overlaps) == (0, 2, 0, 0)


def test_a_task_that_begins_at_the_end_commits_that_first_and_has_no_batch_yet() -> None:
    found = proven(an_entry(1, ("a", 7, 7), kind="offsets"), an_entry(2, ("a", 7, 9))).partition_of(
        "a"
    )
    assert (found.proven_from, found.batches, found.gaps, found.unprocessed) == (7, 1, 0, 0)


# ---------------------------------------------------------------------- resets


def test_a_reset_that_leaves_out_what_was_committed_is_a_gap() -> None:
    marker = Marker(sequence=2, sources={"a": 9})
    reset = reset_entry(
        "count", 3, marker, {"a": 0}, why="again", worker="ada", guarantee="exactly_once", at=5
    )
    assert (reset.kind, reset.sequence) == ("reset", 3)
    found = proven(an_entry(1, ("a", 0, 5)), reset, an_entry(4, ("a", 0, 5))).partition_of("a")
    assert (found.gaps, found.overlaps, found.resets) == (1, 0, 1)
