"""Windows over event time, cut into panes.

All times are integer milliseconds since the epoch. A hopping window of `size` every `step` is
stored as *panes* of the greatest common divisor of both: a record touches one pane however many
windows overlap, and a window is the merge of its panes (Li et al., "No Pane, No Gain", 2005).
A tumbling window is a hopping one whose step is its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["MAX_PANES", "Window", "WindowSpec", "milliseconds"]

#: More panes a window than this is a mistake: every close would merge them all.
MAX_PANES = 1_000


def milliseconds(duration: float | timedelta) -> int:
    """Return a duration (seconds, or a timedelta) as whole milliseconds."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return round(seconds * 1000)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The half-open interval of event time `[start, end)`, in milliseconds."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """The shape of a table's windows, in milliseconds.

    `keep` is for how long after its end a closed window stays readable.

    Raises:
        ValueError: a size or step of nothing, a step beyond the size, or too many panes.
    """

    size: int
    step: int
    keep: int = 0

    def __post_init__(self) -> None:
        if self.size <= 0 or self.step <= 0:
            raise ValueError(
                f"a window's size and step are at least 1 ms, not {self.size} and {self.step}"
            )
        if self.step > self.size:
            raise ValueError(
                f"a step of {self.step} ms beyond the size of {self.size} ms would leave out records: "
                "make the step at most the size"
            )
        if self.keep < 0:
            raise ValueError(f"`expires` is at least 0, not {self.keep} ms")
        panes = self.size // self.pane
        if panes > MAX_PANES:
            raise ValueError(
                f"a window of {self.size} ms every {self.step} ms has {panes:,} panes of {self.pane} ms, "
                f"more than {MAX_PANES:,}: choose a size that is a multiple of the step"
            )

    @property
    def pane(self) -> int:
        """The length of a pane, in milliseconds."""
        return math.gcd(self.size, self.step)

    @property
    def overlapping(self) -> bool:
        """Whether one record is in several windows."""
        return self.step < self.size

    def pane_of(self, time: int) -> int:
        """Return the start of the pane that holds a time."""
        return time - time % self.pane

    def newest(self, time: int) -> Window:
        """Return the window that starts last among those that hold a time."""
        start = time - time % self.step
        return Window(start, start + self.size)

    def windows(self, time: int) -> list[Window]:
        """Return the windows that hold a time, oldest first."""
        newest = time - time % self.step
        oldest = newest - (self.size - 1 - time % self.step) // self.step * self.step
        return [Window(s, s + self.size) for s in range(oldest, newest + 1, self.step)]

    def panes(self, window: Window) -> range:
        """Return the starts of a window's panes."""
        return range(window.start, window.end, self.pane)

    def last_end(self, pane_start: int) -> int:
        """Return when the last window that holds a pane ends: after that, a record is late."""
        return pane_start - pane_start % self.step + self.size

    def first_open(self, watermark: int) -> int:
        """Return the start of the least pane of which a window ends after a watermark."""
        return (watermark - self.size) // self.step * self.step + self.step

    def ends(self, pane_start: int, after: int | None, until: int | None = None) -> range:
        """Return the ends in `(after, until]` of the windows that hold a pane, in order."""
        begin = pane_start if after is None else max(pane_start, after)
        last = self.last_end(pane_start)
        return range(
            self.next_end(begin), (last if until is None else min(last, until)) + 1, self.step
        )

    def next_end(self, after: int) -> int:
        """Return the least end of a window that is greater than a time."""
        offset = self.size % self.step
        return after + self.step - (after - offset) % self.step
