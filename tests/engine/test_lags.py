"""What a worker makes of how far its standbys are behind."""

from __future__ import annotations

import logging

import pytest

from streamapp.engine.lags import Lags


class Watched:
    """Lags on a clock that the test moves, with a count of how often the group was asked."""

    def __init__(self, acceptable: int = 100) -> None:
        self.time = 1000.0
        self.asked = 0
        self.lags = Lags("count", acceptable, self._near, lambda: self.time)

    def _near(self) -> None:
        self.asked += 1

    def seen(self, *behind: int | None, resting: tuple[int, ...] = ()) -> None:
        """Tasks 0, 1, … are so far behind, where it is known."""
        known = {task: {"log": lag} for task, lag in enumerate(behind) if lag is not None}
        self.lags.seen(known, resting)


def test_the_group_is_asked_once_when_all_that_is_warmed_up_is_near() -> None:
    it = Watched()
    it.lags.assign({0, 1, 2}, {0, 1})
    it.seen(None, 10, 9999)
    it.seen(51, 10, 9999)
    assert it.asked == 0
    it.seen(50, 10, 9999)
    assert it.asked == 1
    it.seen(0, 0, 0)
    assert it.asked == 1


def test_it_is_asked_again_after_ever_longer_pauses_while_the_tasks_do_not_come() -> None:
    it = Watched()
    it.lags.assign({0}, {0})
    it.seen(0)
    for asked, pause in enumerate((5, 10, 20, 40, 80, 160, 300, 300), start=1):
        it.lags.assign({0}, {0})
        it.time += pause - 0.5
        it.seen(0)
        assert it.asked == asked
        it.time += 0.5
        it.seen(0)
        assert it.asked == asked + 1


def test_when_they_have_come_the_next_ones_do_not_wait() -> None:
    it = Watched()
    for _ in range(2):
        it.lags.assign({0}, {0})
        it.seen(0)
        it.lags.assign({1}, ())
    assert it.asked == 2


def test_without_anything_to_warm_up_for_nobody_is_asked() -> None:
    it = Watched()
    it.lags.assign({0}, ())
    it.seen(0)
    assert it.asked == 0


def test_one_that_cannot_go_on_does_not_hold_up_the_others() -> None:
    it = Watched()
    it.lags.assign({0, 1}, {0, 1})
    it.seen(0, None)
    assert it.asked == 0
    it.seen(0, None, resting=(1,))
    assert it.asked == 1


def test_what_nobody_waits_for_is_looked_at_once_a_second() -> None:
    it = Watched()
    it.lags.assign({0}, ())
    assert it.lags.due
    it.seen(0)
    assert not it.lags.due
    it.time += 1
    assert it.lags.due


def test_lags_of_what_is_followed_no_longer_are_forgotten() -> None:
    it = Watched()
    it.lags.assign({0, 1}, ())
    it.seen(3, 4)
    it.lags.assign({1, 2}, ())
    assert it.lags.by_task == {1: {"log": 4}}


def test_the_log_says_when_all_are_caught_up_and_rarely_how_far_they_are_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    it = Watched()
    it.lags.assign({0, 1}, ())
    it.seen(0, 101)
    it.seen(0)
    assert caplog.messages == []
    it.time += 60
    it.seen(0, 101)
    it.seen(0, 101)
    assert caplog.messages == ["count: standbys are behind by {0: 0, 1: 101}"]
    it.seen(0, 0)
    it.seen(0, 0)
    assert caplog.messages[1:] == ["count: standbys [0, 1] are caught up"]
