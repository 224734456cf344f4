"""Cutting a stream of bytes into lines, however its chunks fall, in bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LineSplitter", "Lines", "OversizedLine"]

OVERSIZED_BYTES = 64 * 1024
"""What is kept of a line that is over the limit."""


@dataclass(frozen=True, slots=True)
class OversizedLine:
    """A line that is too long: where it stands, how long it is, and its beginning."""

    number: int
    offset: int
    length: int
    start: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines, taken together.

    Attributes:
        lines: without their ends; empty lines and oversized ones are left out.
        oversized: those over the limit.
        taken: how many lines these were, all counted.
        size: how many bytes, with line ends.
    """

    lines: Sequence[bytes]
    oversized: Sequence[OversizedLine]
    taken: int
    size: int


class LineSplitter:
    """Cuts what it is fed at every newline, and drops a carriage return before it.

    A line of nothing is counted and left out: it carries no record. A line over the limit is
    reported apart, and no more than its beginning is held in memory.

    Args:
        limit: the longest line, in bytes without its newline.
        offset: that of the first byte to be fed.
        line: lines before it.
    """

    def __init__(self, limit: int, offset: int = 0, line: int = 0) -> None:
        self.offset = offset
        self.line = line
        self._limit = limit
        self._ready: list[bytes] = []
        self._next = 0
        self._rest = b""
        self._cut: dict[int, int] = {}
        self._dropped = 0
        self._unterminated = False
        self._returns = False

    @property
    def ready(self) -> int:
        """Complete lines that were not taken yet."""
        return len(self._ready) - self._next

    @property
    def partial(self) -> bool:
        """Whether the last line fed still lacks its newline."""
        return bool(self._rest)

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the stream."""
        first, *pieces = data.split(b"\n")
        self._returns = self._returns or b"\r" in data
        self._grow(first)
        if not pieces:
            return
        if self._next:
            del self._ready[: self._next]
            self._next = 0
        self._complete()
        self._ready += pieces[:-1]
        self._grow(pieces[-1])

    def finish(self) -> None:
        """Take the rest for a line: the stream ends without a newline."""
        if self._rest:
            self._unterminated = True
            self._complete()

    def take(self, most: int) -> Lines:
        """Take up to `most` of the lines that are ready, and move on behind them."""
        taken = self._ready[self._next : self._next + most]
        self._next += len(taken)
        size = sum(map(len, taken)) + len(taken)
        if self._unterminated and not self.ready:
            size -= 1
            self._unterminated = False
        oversized: list[OversizedLine] = []
        if taken and (self._cut or max(map(len, taken)) > self._limit):
            taken, oversized, dropped = self._set_apart(taken)
            size += dropped
        count = len(taken) + len(oversized)
        if self._returns:
            taken = [line[:-1] if line.endswith(b"\r") else line for line in taken]
        self.line += count
        self.offset += size
        if not self.ready:
            self._returns = b"\r" in self._rest
        return Lines(taken if all(taken) else [*filter(None, taken)], oversized, count, size)

    def _grow(self, piece: bytes) -> None:
        self._rest += piece
        if len(self._rest) > self._limit:
            keep = max(OVERSIZED_BYTES, self._limit + 1)
            self._dropped += max(0, len(self._rest) - keep)
            self._rest = self._rest[:keep]

    def _complete(self) -> None:
        """The rest has got its newline."""
        if self._dropped:
            self._cut[self.line + self.ready] = self._dropped
            self._dropped = 0
        self._ready.append(self._rest)
        self._rest = b""

    def _set_apart(self, taken: list[bytes]) -> tuple[list[bytes], list[OversizedLine], int]:
        """Split off the lines over the limit; also says how many of their bytes were not kept."""
        fitting, oversized = [], []
        offset, dropped = self.offset, 0
        for number, line in enumerate(taken, start=self.line):
            cut = self._cut.pop(number, 0)
            length = len(line) + cut
            if length > self._limit:
                oversized.append(OversizedLine(number, offset, length, line[:OVERSIZED_BYTES]))
            else:
                fitting.append(line)
            offset += length + 1
            dropped += cut
        return fitting, oversized, dropped
