"""A file that grows at its end and survives a kill at any byte.

Each frame is a length, a checksum of its payload and a checksum of these two; then the payload. A
process that is killed leaves at most an unfinished frame at the end, which is cut when the file is
opened again. Everything else that does not check is damage: it raises `JournalCorrupt`, because a
length that cannot be trusted would make the rest of the file look like a torn tail.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from crc32c import crc32c

from .errors import JournalCorrupt

log = logging.getLogger(__name__)

_CHECKED = Struct(">II")
_CRC = Struct(">I")
#: What a frame takes beside its payload.
FRAME_OVERHEAD: Final = _CHECKED.size + _CRC.size


def frame(payload: bytes) -> bytes:
    """The payload as it stands in a file."""
    checked = _CHECKED.pack(len(payload), crc32c(payload))
    return b"".join((checked, _CRC.pack(crc32c(checked)), payload))


class FrameFile:
    """A file of frames. Writes go to the operating system at once; `flush` goes to the disk."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self.size = os.fstat(self._fd).st_size

    def append(self, payload: bytes) -> int:
        """Write a frame at the end; returns the position of its payload.

        Raises OSError when the disk is full; then nothing of the frame stays.
        """
        data = frame(payload)
        start = self.size
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], start + written)
        except OSError:
            os.ftruncate(self._fd, start)
            raise
        self.size = start + len(data)
        return start + FRAME_OVERHEAD

    def read(self, position: int, size: int) -> bytes:
        """`size` bytes from `position` on."""
        data = os.pread(self._fd, size, position)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), position + len(data))
            if not more:
                raise JournalCorrupt(self.path, position, f"{size} bytes end after {len(data)}")
            data += more
        return data

    def recover(self, *, whole: bool = False) -> Iterator[tuple[int, bytes]]:
        """All payloads and their positions; then what a crash tore off is cut from the file.

        Raises `JournalCorrupt` on the first damaged frame, and for a torn one too when the file
        was finished as a `whole`.
        """
        position = 0
        while True:
            head = os.pread(self._fd, FRAME_OVERHEAD, position)
            if len(head) < FRAME_OVERHEAD:
                break
            checked = head[: _CHECKED.size]
            if _CRC.unpack_from(head, _CHECKED.size)[0] != crc32c(checked):
                raise JournalCorrupt(self.path, position, "the head of a frame does not check")
            length, checksum = _CHECKED.unpack(checked)
            end = position + FRAME_OVERHEAD + length
            if end > self.size:
                break
            payload = self.read(position + FRAME_OVERHEAD, length)
            if crc32c(payload) != checksum:
                raise JournalCorrupt(self.path, position, "a frame does not match its checksum")
            yield position + FRAME_OVERHEAD, payload
            position = end
        if position < self.size:
            if whole:
                raise JournalCorrupt(self.path, position, "the last frame is not whole")
            log.warning("%s: cut %d bytes of a torn write", self.path, self.size - position)
            os.ftruncate(self._fd, position)
            self.size = position

    def flush(self) -> None:
        """Have the disk keep what was written."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
