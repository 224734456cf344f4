"""Time as receivers see it: given to them, so that a test can turn the hands itself."""

import asyncio
import time

__all__ = ["Clock", "Pace"]


class Clock:
    """The machine's clock. A test derives from it and moves time on when somebody sleeps."""

    def now_ms(self) -> int:
        """Integer milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds since some moment, never running back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Pace:
    """Keeps a flow at so many a second, without making up for more than one second of delay.

    Args:
        rate: how many a second; None is as fast as possible.
        clock: what tells the time.
    """

    def __init__(self, rate: float | None, clock: Clock) -> None:
        if rate is not None and not rate > 0:
            raise ValueError(f"rate is a number a second and must be positive, not {rate}")
        self._rate = rate
        self._clock = clock
        self._due = clock.monotonic()

    def delay(self, count: int) -> float:
        """Seconds to wait before the next `count` may pass; they are taken as passed then."""
        if self._rate is None:
            return 0.0
        now = self._clock.monotonic()
        self._due = max(self._due, now - 1.0) + count / self._rate
        return max(0.0, self._due - now)
