"""A backlog that outlives the process: what the stream has said and no transaction has committed.

It is a write-ahead log that is not forced to the disk line by line: a process that is killed loses
nothing of it, a machine that loses power may lose the last seconds. Search makes up for those, but
for rules that it does not take.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from streamapp.receivers.tweets.backlog import LEFT_OVER, LINE, BacklogFull
from streamapp.receivers.wal import Line, WriteAheadLog

__all__ = ["KeptBacklog"]


class KeptBacklog:
    """A backlog in a directory, with what the process before has left there at its beginning.

    Of a process before, only lines come back, as `LEFT_OVER`: some of them may be committed.

    Args:
        directory: of one receiver alone.
        topic, name: the receiver's.
        most: bytes that may wait.

    Raises:
        SourceError: the directory belongs to another receiver or process, or cannot be used.
    """

    def __init__(self, directory: Path, topic: str, name: str, most: int) -> None:
        self._log = WriteAheadLog(directory, topic, name)
        self._most = most
        self._read = self._log.first
        self._ahead: deque[tuple[int, bytes]] = deque()
        self._left_before = self._log.current
        self._waiting = 0
        self.size = 0
        self._count_left_over()

    def __len__(self) -> int:
        return self._waiting

    @property
    def spilled(self) -> int:
        """Entries on disk: all."""
        return self._waiting

    def put(self, kind: int, data: bytes) -> None:
        """Add an entry.

        Raises:
            BacklogFull: there is no room for it.
        """
        if self.size + len(data) > self._most:
            raise BacklogFull
        try:
            self._log.append([Line(bytes([kind]) + data, len(data) + 1)], forced=False)
        except OSError as error:
            raise BacklogFull from error
        self._waiting += 1
        self.size += len(data)

    def take(self, most: int, size: int) -> Iterator[tuple[int, bytes]]:
        """The oldest entries, at most so many, until `size` bytes are reached."""
        taken = 0
        while most > 0 and taken < size and (entry := self._next()) is not None:
            most -= 1
            taken += len(entry[1])
            yield entry

    def committed(self) -> None:
        """All that was taken is committed: let go of it, as far as whole segments go."""
        self._log.trim(self._read)

    def close(self) -> None:
        """Let go of the directory; what waits stays in it."""
        if not self._waiting:
            self._log.clear()
        self._log.close()

    def _next(self) -> tuple[int, bytes] | None:
        if not self._ahead:
            lines, self._read = self._log.read(self._read)
            left = self._read.segment < self._left_before
            self._ahead.extend(_entries(lines, left))
        if not self._ahead:
            return None
        entry = self._ahead.popleft()
        self._waiting -= 1
        self.size -= len(entry[1])
        return entry

    def _count_left_over(self) -> None:
        place = self._read
        while True:
            lines, place = self._log.read(place)
            if not lines:
                return
            for _, data in _entries(lines, left=True):
                self._waiting += 1
                self.size += len(data)


def _entries(lines: list[Line], left: bool) -> Iterator[tuple[int, bytes]]:
    for line in lines:
        kind, data = line.value[0], line.value[1:]
        if not left:
            yield kind, data
        elif kind == LINE:
            yield LEFT_OVER, data
