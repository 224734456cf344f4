"""Batches that shrink when their transactions time out."""

from __future__ import annotations

from streamapp.engine.pace import Pace


def test_a_timeout_halves_what_was_in_the_batch() -> None:
    pace = Pace(10_000, timeout=10.0)
    pace.timed_out(600)
    assert pace.max_records == 300


def test_a_batch_keeps_a_record() -> None:
    pace = Pace(4, timeout=10.0)
    for _ in range(5):
        pace.timed_out(1)
    assert pace.max_records == 1


def test_a_checkpoint_of_time_alone_is_not_made_smaller() -> None:
    pace = Pace(10, timeout=10.0)
    pace.timed_out(0)
    assert pace.max_records == 10


def test_quick_commits_let_it_grow_to_what_the_agents_ask_for() -> None:
    pace = Pace(10, timeout=10.0)
    pace.timed_out(10)
    pace.committed(2.6)
    assert pace.max_records == 5
    pace.committed(2.4)
    pace.committed(2.4)
    assert pace.max_records == 10
