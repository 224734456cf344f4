"""Work on something that may hang, a filesystem across the network say, in a thread of its own.

Such a thread can neither be interrupted nor waited for: it takes no place in a pool that others
need, and the process ends without it. It says once in a while that it moves; when nobody waits for
it any more, or it has not moved for too long, that is where it ends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Abandoned", "Attended", "Stalled"]

_Result = TypeVar("_Result")

#: How often to look whether it moves, in seconds.
_LOOK = 1.0


class Abandoned(Exception):
    """Nobody waits for this work any more."""


class Stalled(Exception):
    """The work has not moved for too long; it is left to itself."""


class Attended(Generic[_Result]):
    """One piece of work.

    Arguments:
        work: is called with a function to call when it has moved, which raises `Abandoned` when it
            is to end.
        name: of its thread.
        within: how long it may take to move, in seconds.
        discard: is called with a result that nobody takes; it may be called in either thread.
        clock: seconds, of any origin.
    """

    def __init__(
        self,
        work: Callable[[Callable[[], None]], _Result],
        name: str,
        within: float,
        discard: Callable[[_Result], None] = lambda result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._name = name
        self._within = within
        self._discard = discard
        self._clock = clock
        self._abandoned = False
        self._moved_at = clock()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether it is going on, attended or not."""
        return self._thread is not None and self._thread.is_alive()

    async def run(self) -> _Result:
        """Do it; return what it returns, or raise what it raises.

        Raises:
            Stalled: it has not moved for too long.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()
        self._thread = threading.Thread(
            target=self._in_thread, args=(loop, done), name=self._name, daemon=True
        )
        self._moved_at = self._clock()
        self._thread.start()
        try:
            while not done.done():
                await asyncio.wait({done}, timeout=min(_LOOK, self._within / 4))
                if not done.done() and self._clock() - self._moved_at > self._within:
                    raise Stalled(f"nothing has moved for {self._within:.0f} s")
        except BaseException:
            self._abandoned = True
            if not done.cancel() and not done.cancelled() and done.exception() is None:
                self._discard(done.result())
            raise
        return done.result()

    def _moved(self) -> None:
        if self._abandoned:
            raise Abandoned
        self._moved_at = self._clock()

    def _in_thread(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[_Result]) -> None:
        try:
            result = self._work(self._moved)
        except Exception as error:
            self._deliver(loop, self._fail, done, error)
        else:
            if not self._deliver(loop, self._succeed, done, result):
                self._discard(result)

    @staticmethod
    def _deliver(loop: asyncio.AbstractEventLoop, *call: object) -> bool:
        try:
            loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]
        except RuntimeError:  # the loop has ended
            return False
        return True

    def _succeed(self, done: asyncio.Future[_Result], result: _Result) -> None:
        if done.done():
            self._discard(result)
        else:
            done.set_result(result)

    @staticmethod
    def _fail(done: asyncio.Future[_Result], error: Exception) -> None:
        if not done.done():
            done.set_exception(error)
