"""What a task was fed and has not processed yet: bounded, and taken a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamapp.engine.buffer import Buffer
from streamapp.engine.checkpoint import Slice

__all__ = ["Intake"]

#: Fetches that a task buffers; one is a megabyte (aiokafka's `max_partition_fetch_bytes`), or one
#: record that is larger.
_MOST_FETCHES = 32


class Intake:
    """The buffers of a task's sources, from one seek to the next.

    Arguments:
        offsets: where each source begins, by topic.
        max_records: of a batch; twice as many may wait.
        clock: seconds, of any origin.
    """

    def __init__(
        self,
        offsets: Mapping[str, int],
        max_records: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffers = {topic: Buffer(offset) for topic, offset in offsets.items()}
        self._most_records = 2 * max_records
        self._clock = clock
        #: Taken in since the last batch: each has about a megabyte at the most.
        self._fetches = 0
        #: Since when records wait, in the clock's seconds; `None` while there are none.
        self.since: float | None = None

    @property
    def pending(self) -> int:
        """How many records wait."""
        return sum(len(buffer.records) for buffer in self._buffers.values())

    @property
    def heavy(self) -> bool:
        """Whether as many bytes wait as may."""
        return self._fetches >= _MOST_FETCHES

    @property
    def has_room(self) -> bool:
        """Whether there is room for more records, by number and by size."""
        return self.pending < self._most_records and not self.heavy

    def position(self, topic: str) -> int:
        """Return up to where a source was taken in."""
        return self._buffers[topic].until

    def drained(self) -> list[str]:
        """Return the sources of which nothing waits."""
        return [topic for topic, buffer in self._buffers.items() if not buffer.records]

    def feed(self, topic: str, records: Sequence[Any], until: int) -> bool:
        """Take what was fetched, up to an offset; return whether there is more to process.

        Records may be none: control records move the offset too, and the next slice covers them.
        """
        buffer = self._buffers[topic]
        if until <= buffer.until:
            return False
        buffer.until = until
        if not records:
            return False
        if self.since is None:
            self.since = self._clock()
        buffer.records.extend(records)
        self._fetches += 1
        return True

    def jump(self, topic: str, offset: int, until: int) -> None:
        """Take note that what was not read up to an offset is gone."""
        self._buffers[topic].jump(offset, until)

    def take(self, room: int) -> list[Slice]:
        """Return at most so many records, of one source after the other."""
        slices = []
        for topic, buffer in self._buffers.items():
            if buffer.records and room > 0:
                part = buffer.take(topic, room)
                room -= len(part.records)
                slices.append(part)
        return self._taken(slices)

    def take_until(self, until: int) -> list[Slice]:
        """Return what there is of each source up to an offset, which has been read up to."""
        return self._taken(
            [buffer.take_until(topic, until) for topic, buffer in self._buffers.items()]
        )

    def _taken(self, slices: list[Slice]) -> list[Slice]:
        # The next batch begins with the next source: a backlog in one does not hold up the others.
        first = next(iter(self._buffers))
        self._buffers[first] = self._buffers.pop(first)
        self._fetches = 0
        self.since = self._clock() if self.pending else None
        return slices
