"""What waits for a task: bounded, in turns, and nothing of it twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.intake import Intake


def records(begin: int, end: int) -> list[Any]:
    return [SimpleNamespace(offset=offset) for offset in range(begin, end)]


def test_there_is_room_for_two_batches() -> None:
    intake = Intake({"in": 0}, max_records=10)
    assert intake.feed("in", records(0, 19), 19)
    assert intake.has_room
    intake.feed("in", records(19, 20), 20)
    assert not intake.has_room
    intake.take(10)
    assert intake.has_room


def test_large_records_fill_it_by_the_fetches_they_take() -> None:
    intake = Intake({"in": 0}, max_records=10_000)
    for offset in range(32):
        assert intake.has_room
        intake.feed("in", records(offset, offset + 1), offset + 1)
    assert intake.heavy and not intake.has_room
    intake.take(10_000)
    assert intake.has_room


def test_control_records_move_the_offset_and_are_no_work() -> None:
    intake = Intake({"in": 5}, max_records=10)
    assert not intake.feed("in", [], 7)
    assert (intake.position("in"), intake.pending, intake.since) == (7, 0, None)
    intake.feed("in", records(7, 9), 10)
    [part] = intake.take(10)
    assert (part.from_offset, part.until_offset, len(part.records)) == (5, 10, 2)


def test_what_was_taken_in_before_is_not_taken_in_again() -> None:
    intake = Intake({"in": 0}, max_records=10)
    assert intake.feed("in", records(0, 5), 5)
    assert not intake.feed("in", records(0, 5), 5)
    assert intake.pending == 5


def test_a_backlog_in_one_source_does_not_hold_up_the_others() -> None:
    intake = Intake({"long": 0, "short": 0}, max_records=2)
    intake.feed("long", records(0, 6), 6)
    intake.feed("short", records(0, 1), 1)
    turns = [[(part.topic, len(part.records)) for part in intake.take(2)] for _ in range(3)]
    assert turns == [[("long", 2)], [("short", 1), ("long", 1)], [("long", 2)]]


def test_the_wait_for_a_batch_begins_with_what_the_last_one_left() -> None:
    now = 10.0
    intake = Intake({"in": 0}, max_records=2, clock=lambda: now)
    intake.feed("in", records(0, 1), 1)
    now = 11.0
    intake.feed("in", records(1, 3), 3)
    assert intake.since == 10.0
    intake.take(2)
    assert intake.since == 11.0
    intake.take(2)
    assert intake.since is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7))), st.data())
def test_ranges_meet_and_each_record_is_in_one_of_them(
    steps: list[tuple[bool, int]], data: st.DataObject
) -> None:
    intake = Intake({"in": 0}, max_records=5)
    fed, parts = 0, []
    for feeding, number in steps:
        if feeding:
            until = fed + number + data.draw(st.integers(0, 2), label="control records")
            intake.feed("in", records(fed, fed + number), until)
            fed = until
        else:
            parts += intake.take(number)
    parts += intake.take(10**6)
    begins, ends = [part.from_offset for part in parts], [part.until_offset for part in parts]
    assert begins == [0, *ends[:-1]][: len(begins)]
    for part in parts:
        assert all(part.from_offset <= r.offset < part.until_offset for r in part.records)
    offsets = [record.offset for part in parts for record in part.records]
    assert offsets == sorted(set(offsets))
    assert intake.pending == 0
