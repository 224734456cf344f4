"""An event loop in which nobody waits: when nothing is left to do, its clock moves on.

Everything happens in the order of its time, and five minutes of silence take a millisecond. With a
factor instead, the clock runs so many times as fast as the real one: two processes that are given
the same origin share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Iterator
from selectors import SelectorKey
from typing import Any

from streamapp.receivers.clock import Clock

__all__ = ["FastLoop", "LoopClock"]

GRACE = 0.001
"""Real seconds without any input or output after which nothing is taken to be on its way."""


class FastLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` jumps to the next timer whenever it is idle.

    Args:
        factor: how many times as fast as the real clock it runs, instead of jumping.
        origin: the real monotonic time at which the two clocks agreed; now by default.
        grace: as `GRACE`; more of it where a machine that is busy must not lose the first moments.
    """

    def __init__(
        self, factor: float | None = None, origin: float | None = None, grace: float = GRACE
    ) -> None:
        self._grace = grace
        self._factor = factor
        self._origin = time.monotonic() if origin is None else origin
        self._ahead = 0.0
        self._holds = 0
        selector = selectors.DefaultSelector()
        self._waits, selector.select = selector.select, self._select  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        now = time.monotonic()
        if self._factor is not None and not self._holds:
            self._ahead = max(self._ahead, (now - self._origin) * (self._factor - 1.0))
        return now + self._ahead

    @contextlib.contextmanager
    def real_time(self) -> Iterator[None]:
        """Let the clock run as the real one: whoever is waited for is not in this loop."""
        self.time()
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def _select(self, timeout: float | None = None) -> list[tuple[SelectorKey, Any]]:
        if timeout is None or timeout <= 0 or self._holds:
            return self._waits(timeout)
        if self._factor is not None:
            return self._waits(timeout / self._factor)
        ready = self._waits(min(timeout, self._grace))
        if not ready and timeout > self._grace:
            self._ahead += timeout - self._grace
        return ready


class LoopClock(Clock):
    """The clock of the running loop, for receivers and for the fake.

    start: seconds since the epoch at the loop time `zero`, which is now by default.
    """

    def __init__(self, start: float, zero: float | None = None) -> None:
        self._start = start
        self._zero = asyncio.get_running_loop().time() if zero is None else zero

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._start + self.monotonic() - self._zero

    def now_ms(self) -> int:
        return int(self.now() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
