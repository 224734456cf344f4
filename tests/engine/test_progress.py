"""How far the opening of tasks is, in figures and in words."""

from __future__ import annotations

import pytest

from streamapp.engine.progress import Recovery, RestoreProgress, describe


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recovery(clock: Clock) -> Recovery:
    return Recovery(clock)


def test_a_restore_tells_its_pace_and_what_is_left(recovery: Recovery, clock: Clock) -> None:
    with recovery.opening("count/0") as opening:
        assert recovery.tasks == [RestoreProgress("count/0", "waiting")]
        opening.begin(1_000)
        assert recovery.moves == 0
        assert opening.progress.remaining is None
        clock.now += 2
        opening.move(done=500, records=400, size=40_000)
        opening.move(done=500, records=400, size=40_000)
        assert recovery.moves == 1
        [progress] = recovery.tasks
        assert progress == RestoreProgress("count/0", "restoring", 400, 40_000, 500, 1_000, 2.0)
        assert (progress.rate, progress.remaining) == (200.0, 2.0)


def test_the_sum_covers_all_tasks_until_none_is_left(recovery: Recovery, clock: Clock) -> None:
    with recovery.opening("count/0") as first:
        with recovery.opening("count/1") as second:
            first.begin(100)
            second.begin(300)
            clock.now += 1
            first.move(100, 90, 900)
            second.move(100, 80, 800)
        clock.now += 5
        # The clock of a task stands still when it is open.
        assert [task.seconds for task in recovery.tasks] == [6.0, 1.0]
        total = recovery.total
        assert (total.records, total.bytes, total.done, total.total) == (170, 1_700, 200, 400)
        assert total.task == "1 of 2 tasks are open"
        assert recovery.active
    assert not recovery.active
    assert recovery.total.task == "2 of 2 tasks are open"
    clock.now += 100
    assert recovery.total.seconds == 6.0
    with recovery.opening("count/2"):
        assert [task.task for task in recovery.tasks] == ["count/2"]


def test_a_task_that_does_not_open_is_not_counted(recovery: Recovery) -> None:
    with recovery.opening("count/1"):
        with pytest.raises(OSError), recovery.opening("count/0"):
            raise OSError
        assert [task.task for task in recovery.tasks] == ["count/1"]


def test_a_line_says_records_bytes_share_and_time() -> None:
    progress = RestoreProgress(
        "1 of 8 tasks are open", "restoring", 1_200_000, 120_500_000, 30, 90, 10.0
    )
    assert describe(progress) == (
        "1 of 8 tasks are open; restored 1,200,000 changelog records, 120.5 MB, 33 %, 20 s to go"
    )
