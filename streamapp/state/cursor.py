"""The record at hand: what a batch sets and a windowed table reads."""

from __future__ import annotations

__all__ = ["Cursor"]


class Cursor:
    """Where a task's agent is in its batch.

    `times` holds the event time of each record of the batch, in milliseconds; `index` is the
    record that the agent is looking at. Between batches `times` is empty.
    """

    __slots__ = ("index", "times")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.index = -1

    def time(self) -> int | None:
        """Return the event time of the record at hand, or `None` between records."""
        return self.times[self.index] if 0 <= self.index < len(self.times) else None

    def clear(self) -> None:
        """There is no record at hand."""
        self.times = []
        self.index = -1
