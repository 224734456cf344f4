"""Work that may hang: waited for while it moves, and left to itself when nobody waits or it does not move."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from streamapp.engine import attended
from streamapp.engine.attended import Abandoned, Attended, Stalled
from tests.polling import eventually

#: Longer than any test.
LONG = 600.0


async def test_it_returns_or_raises_what_the_work_does() -> None:
    assert await Attended(lambda moved: 7, "work", LONG).run() == 7

    def fail(moved: Callable[[], None]) -> int:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await Attended(fail, "work", LONG).run()


async def test_work_that_moves_is_waited_for_and_work_that_does_not_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attended, "_LOOK", 0.01)
    steps, moves, hold = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    ended: list[str] = []
    now = 0.0

    def work(moved: Callable[[], None]) -> int:
        for _ in range(3):
            steps.acquire(timeout=60)
            moved()
            moves.release()
        hold.wait(60)
        try:
            moved()
        except Abandoned:
            ended.append("abandoned")
            raise
        return 7

    running = asyncio.create_task(Attended(work, "work", 60.0, clock=lambda: now).run())
    for _ in range(3):
        now += 59.0
        steps.release()
        assert await asyncio.to_thread(moves.acquire, timeout=60)
        assert not running.done()
    now += 61.0
    with pytest.raises(Stalled, match="nothing has moved for 60 s"):
        await running
    hold.set()
    await eventually(lambda: ended == ["abandoned"])


async def test_a_result_that_nobody_takes_is_discarded() -> None:
    begun, hold, discarded = threading.Event(), threading.Event(), threading.Event()

    def work(moved: Callable[[], None]) -> int:
        begun.set()
        hold.wait(60)
        return 7

    def discard(result: int) -> None:
        assert result == 7
        discarded.set()

    running = asyncio.create_task(Attended(work, "work", LONG, discard).run())
    await asyncio.to_thread(begun.wait, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    hold.set()
    assert await asyncio.to_thread(discarded.wait, 60)


def test_a_process_ends_without_work_that_hangs() -> None:
    """The loop neither, also when the work ends after it: the result is discarded."""
    begun, hold, discarded = threading.Event(), threading.Event(), threading.Event()

    def work(moved: Callable[[], None]) -> int:
        begun.set()
        hold.wait(60)
        return 7

    async def main() -> None:
        running = asyncio.create_task(Attended(work, "work", LONG, lambda _: discarded.set()).run())
        await asyncio.to_thread(begun.wait, 60)
        running.cancel()

    asyncio.run(main())
    [thread] = [thread for thread in threading.enumerate() if thread.name == "work"]
    assert thread.daemon
    hold.set()
    assert discarded.wait(60)
