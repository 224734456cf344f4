"""A clock whose hands move when somebody sleeps."""

import asyncio
import time

from streamapp.receivers.clock import Clock

__all__ = ["ManualClock"]


class ManualClock(Clock):
    """Sleeping takes no time: the clock is moved on instead, and the sleep is noted.

    It starts at the present unless told otherwise: it stamps records, and Kafka would delete old
    ones by their timestamps.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return int(self.now * 1000)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
