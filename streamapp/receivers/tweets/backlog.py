"""What the stream has said and nobody has handled yet: in memory first, then on disk, in order."""

import struct
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import IO, Final

__all__ = ["CONNECTED", "KEEP_ALIVE", "LEFT_OVER", "LINE", "Backlog", "BacklogFull"]

LINE: Final = 0
KEEP_ALIVE: Final = 1
CONNECTED: Final = 2
"""Kinds of entries; the latter two carry their time in milliseconds since the epoch."""

LEFT_OVER: Final = 3
"""A line that a process before has left, and may have published."""

_HEADER: Final = struct.Struct(">BI")


class BacklogFull(Exception):
    """Neither memory nor disk has room: the stream has to be left, and its gap to be filled."""


class Backlog:
    """A queue of entries, of bounded memory and bounded disk.

    What is over `memory` bytes is spilled to a file without a name, which is gone with the process:
    its tweets were not published, so that the gap is filled from before them.

    Args:
        memory: bytes.
        disk: bytes; 0 never spills.
    """

    def __init__(self, memory: int, disk: int) -> None:
        self._memory = memory
        self._disk = disk
        self._entries: deque[tuple[int, bytes]] = deque()
        self._held = 0
        self._file: IO[bytes] | None = None
        self._read = 0
        self._written = 0
        self._spilled = 0

    def __len__(self) -> int:
        return len(self._entries) + self._spilled

    @property
    def spilled(self) -> int:
        """Entries on disk."""
        return self._spilled

    @property
    def size(self) -> int:
        """Bytes held in memory and on disk."""
        return self._held + self._written - self._read

    def put(self, kind: int, data: bytes) -> None:
        """Add an entry.

        Raises:
            BacklogFull: there is no room for it.
        """
        if not self._spilled and self._held + len(data) <= self._memory:
            self._entries.append((kind, data))
            self._held += len(data)
            return
        record = _HEADER.pack(kind, len(data)) + data
        if self._written + len(record) > self._disk:
            raise BacklogFull
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._file.seek(self._written)
            self._file.write(record)
        except OSError as error:
            raise BacklogFull from error
        self._written += len(record)
        self._spilled += 1

    def take(self, most: int, size: int) -> Iterator[tuple[int, bytes]]:
        """The oldest entries, at most so many, until `size` bytes are reached."""
        taken = 0
        while most > 0 and taken < size and (entry := self._next()) is not None:
            most -= 1
            taken += len(entry[1])
            yield entry

    def committed(self) -> None:
        """All that was taken is committed: nothing of it is held here any more."""

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._held = self._spilled = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _next(self) -> tuple[int, bytes] | None:
        if self._entries:
            entry = self._entries.popleft()
            self._held -= len(entry[1])
            return entry
        if not self._spilled:
            return None
        assert self._file is not None
        self._file.seek(self._read)
        kind, length = _HEADER.unpack(self._file.read(_HEADER.size))
        data = self._file.read(length)
        self._read += _HEADER.size + length
        self._spilled -= 1
        if not self._spilled:
            self._file.truncate(0)
            self._read = self._written = 0
        return kind, data
