"""Totals sampled over time: how many a second, now and for the last minute or so."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["Trail", "sparkline"]

_STEPS = "▁▂▃▄▅▆▇█"


class Trail:
    """The pace of a total that only grows.

    Args:
        total: what it is at the beginning; that much came before.
        now: when that was, in seconds of any clock.
        most: intervals to remember.
    """

    def __init__(self, total: int, now: float, most: int = 60) -> None:
        self._total = total
        self._at = now
        self.rates: deque[float] = deque(maxlen=most)

    @property
    def rate(self) -> float:
        """How many a second, in the last interval."""
        return self.rates[-1] if self.rates else 0.0

    def beat(self, total: int, now: float) -> None:
        """End an interval, at `now`."""
        if now > self._at:
            self.rates.append((total - self._total) / (now - self._at))
            self._total, self._at = total, now


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as bars of one line, right-aligned, the highest one full."""
    last = list(values)[-width:]
    highest = max(last, default=0.0)
    if highest <= 0:
        return ("▁" * len(last)).rjust(width)
    bars = (_STEPS[min(int(v / highest * len(_STEPS)), len(_STEPS) - 1)] for v in last)
    return "".join(bars).rjust(width)
