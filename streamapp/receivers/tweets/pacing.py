"""When to connect again: soon after an accident, later after a refusal, never over the quota."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from streamapp.receivers.tweets.stream import End

__all__ = ["QUOTA", "QUOTA_SECONDS", "Backoff", "quota_delay"]

QUOTA: Final = 45
QUOTA_SECONDS: Final = 15 * 60.0
"""The API allows 50 connects in a quarter of an hour; we leave some to whoever looks by hand."""

SPACING: Final = 2.0
_HEALTHY: Final = 60.0
_ENDED: Final = "ended"


class Backoff:
    """Pauses that grow while connections fail, as X asks for.

    Network errors: 0.25 s more each time, to 16 s. 429: from 60 s, doubling to 15 minutes. Other
    refusals: from 5 s, doubling to 320 s. After an end without error: from 1 s, doubling to 60 s.
    """

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def pause(self, end: End, lasted: float) -> float:
        """Seconds to wait after an attempt that ended so.

        Args:
            end: how it ended.
            lasted: for how many seconds there was a connection; 0 if there was none.
        """
        if lasted >= _HEALTHY:
            self._failures.clear()
        elif lasted:
            self._failures = Counter({_ENDED: self._failures[_ENDED]})
        kind = end.kind if end.kind in ("network", "http") else _ENDED
        failures = min(self._failures[kind], 60)
        self._failures[kind] += 1
        if kind == "network":
            return min(0.25 * failures, 16.0)
        if kind == "http":
            first, longest = (60.0, QUOTA_SECONDS) if end.status in (420, 429) else (5.0, 320.0)
            return min(first * 2.0**failures, longest)
        return min(2.0**failures, 60.0)


def quota_delay(connects: Sequence[int], now_ms: int) -> float:
    """Seconds until one more connect is within the quota, and not right behind the last one.

    connects: when there were some, in milliseconds since the epoch, ascending.
    """
    recent = [moment for moment in connects if now_ms - moment < QUOTA_SECONDS * 1000]
    if not recent:
        return 0.0
    delay = SPACING - (now_ms - recent[-1]) / 1000
    if len(recent) >= QUOTA:
        delay = max(delay, QUOTA_SECONDS - (now_ms - recent[-QUOTA]) / 1000)
    return max(0.0, delay)
