"""What a task has fetched of a source partition, until a batch takes it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from streamapp.engine.checkpoint import Slice

__all__ = ["Buffer"]


class Buffer:
    """What was fetched of one source partition and not processed yet."""

    __slots__ = ("lost", "offset", "records", "until")

    def __init__(self, offset: int) -> None:
        #: Where the next slice begins.
        self.offset = offset
        self.until = offset
        self.records: list[Any] = []
        #: Ranges of offsets that were removed before they were read, and are in no slice yet.
        self.lost: list[tuple[int, int]] = []

    def jump(self, offset: int, until: int) -> None:
        """Go on behind a range that is gone: what is read next begins there, also when it is read again."""
        self.lost.append((offset, until))
        self.until = until

    def take(self, topic: str, most: int) -> Slice:
        """Return at most so many records, with the offset where they end."""
        if len(self.records) <= most:
            taken, self.records, until = self.records, [], self.until
        else:
            taken, self.records = self.records[:most], self.records[most:]
            until = self.records[0].offset
        return self._taken(topic, taken, until)

    def take_until(self, topic: str, until: int) -> Slice:
        """Return what there is up to an offset, which has been read up to."""
        count = bisect_left(self.records, until, key=lambda record: record.offset)
        taken, self.records = self.records[:count], self.records[count:]
        return self._taken(topic, taken, until)

    def _taken(self, topic: str, taken: list[Any], until: int) -> Slice:
        lost = [gone for gone in self.lost if gone[0] < until]
        self.lost = self.lost[len(lost) :]
        part = Slice(topic, self.offset, until, taken, lost)
        self.offset = until
        return part
