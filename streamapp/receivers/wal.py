"""A write-ahead log: what came in and is not yet committed, on the local disk.

It makes a source that cannot be read again one that can, from the moment on at which a line is in
the log. A directory has segments, numbered; each holds records that carry a checksum, so that the torn
end that a power failure leaves is recognised. A new process begins a new segment.
"""

import fcntl
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from streamapp.receivers.errors import SourceError

__all__ = ["Line", "LogPlace", "WriteAheadLog"]

logger = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 16 << 20
_READ_BYTES = 1 << 19
_HEADER = struct.Struct(">III")  # bytes that follow, their CRC-32, the line's length


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it came in: its bytes, or the beginning of one that is `length` bytes long."""

    value: bytes
    length: int


class LogPlace(msgspec.Struct, frozen=True, order=True):
    """A place in a log: the byte at `offset` of a segment."""

    segment: int = 0
    offset: int = 0


class _Label(msgspec.Struct, frozen=True):
    """Which log this is, and whose."""

    id: str
    topic: str
    name: str


class WriteAheadLog:
    """The log of the receiver `name` of `topic` in `directory`.

    Its methods block: a loop calls `append` in a thread.

    Args:
        directory: made if it is missing; one receiver's alone.

    Raises:
        SourceError: the directory belongs to another receiver or process, or cannot be used.
    """

    def __init__(
        self, directory: Path, topic: str, name: str, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            self.id = self._label(topic, name).id
            numbers = self._segments()
            self._current = max(numbers, default=0) + 1
            self._file = self._begin()
        except OSError as error:
            raise SourceError(f"cannot keep a write-ahead log in {directory}: {error}") from error
        self._first = LogPlace(min(numbers, default=self._current))
        self._size = 0

    @property
    def first(self) -> LogPlace:
        """Where the oldest segment begins."""
        return self._first

    @property
    def current(self) -> int:
        """The number of the segment that is written; those below are of processes before."""
        return self._current

    def append(self, lines: Sequence[Line], *, forced: bool = True) -> None:
        """Write lines; when this returns they are on the disk.

        Not `forced`, they are with the operating system: that is quick, and safe from all but a
        failure of the machine.

        Raises:
            OSError: they are not, or not all of them.
        """
        if self._size >= self._segment_bytes:
            os.close(self._file)
            self._current += 1
            self._file = self._begin()
            self._size = 0
        data = memoryview(b"".join(map(_encode, lines)))
        self._size += len(data)
        while data:
            data = data[os.write(self._file, data) :]
        if forced:
            os.fdatasync(self._file)

    def read(self, place: LogPlace) -> tuple[list[Line], LogPlace]:
        """Some of the lines behind a place, and the place behind them; none at the end."""
        while True:
            # Asked before reading: a segment that is not the current one grows no more.
            current = self._current
            path = self._path(place.segment)
            lines: list[Line] = []
            if path.exists():
                with path.open("rb") as file:
                    file.seek(place.offset)
                    data = file.read(_READ_BYTES)
                    lines, taken = _decode(data)
                    if not lines and len(data) >= _HEADER.size:
                        # A record that is larger than what was read.
                        data += file.read(_HEADER.unpack_from(data)[0])
                        lines, taken = _decode(data)
                if lines:
                    return lines, LogPlace(place.segment, place.offset + taken)
            if place.segment >= current:
                return [], place
            if path.exists() and path.stat().st_size > place.offset:
                logger.warning(
                    "%s ends in a record that was not written to its end: it was never confirmed,"
                    " and is left out",
                    path,
                )
            place = LogPlace(place.segment + 1)

    def trim(self, place: LogPlace) -> None:
        """Remove the segments before a place: all of it is committed."""
        for segment in self._segments():
            if segment < min(place.segment, self._current):
                self._path(segment).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all segments: nothing in them is needed any more."""
        for segment in self._segments():
            self._path(segment).unlink(missing_ok=True)

    def size_from(self, place: LogPlace) -> int:
        """Bytes behind a place."""
        sizes = (
            self._path(segment).stat().st_size
            for segment in self._segments()
            if segment >= place.segment
        )
        return max(0, sum(sizes) - place.offset)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _locked(self) -> int:
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise SourceError(
                f"another process keeps its write-ahead log in {self._directory}: every receiver"
                " needs a directory of its own"
            ) from None
        return lock

    def _label(self, topic: str, name: str) -> _Label:
        path = self._directory / "label.json"
        if path.exists():
            label = msgspec.json.decode(path.read_bytes(), type=_Label)
            if (label.topic, label.name) != (topic, name):
                os.close(self._lock)
                raise SourceError(
                    f"{self._directory} is the write-ahead log of receiver {label.name!r} of topic"
                    f" {label.topic!r}, not of {name!r} of {topic!r}: every receiver needs a"
                    " directory of its own"
                )
            return label
        label = _Label(uuid.uuid4().hex, topic, name)
        made = path.with_suffix(".new")
        with made.open("wb") as file:
            file.write(msgspec.json.encode(label))
            file.flush()
            os.fsync(file.fileno())
        made.rename(path)
        return label

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._directory.glob("[0-9]*.log"))

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:012d}.log"

    def _begin(self) -> int:
        """Make the current segment, so that it is there after a power failure too."""
        file = os.open(
            self._path(self._current), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644
        )
        folder = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return file


def _encode(line: Line) -> bytes:
    return _HEADER.pack(len(line.value), zlib.crc32(line.value), line.length) + line.value


def _decode(data: bytes) -> tuple[list[Line], int]:
    """The whole and intact records at the beginning of some bytes, and how many bytes they take."""
    lines: list[Line] = []
    taken = 0
    while taken + _HEADER.size <= len(data):
        size, checksum, length = _HEADER.unpack_from(data, taken)
        value = data[taken + _HEADER.size : taken + _HEADER.size + size]
        if len(value) < size or zlib.crc32(value) != checksum:
            break
        lines.append(Line(value, length))
        taken += _HEADER.size + size
    return lines, taken
