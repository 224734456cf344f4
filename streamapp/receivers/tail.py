"""Reading a log file that grows, is rotated and is truncated, from a position on.

A file is known by what it begins with, not by its name: a rotated log keeps its content under
another name, and a new file may get the old one's name, or even its inode. So a position carries a
fingerprint of the file's beginning, of bytes that were already read.

Limits: of files that were rotated while nobody read, the one that was being read is found and
finished, and then comes the one that has the name now; files rotated in between are not looked for.
A compressed file is not recognised.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from streamapp.receivers.errors import SourceError
from streamapp.receivers.lines import Lines, LineSplitter

__all__ = ["FilePosition", "FileTail", "Piece"]

logger = logging.getLogger(__name__)

HEAD_BYTES: Final = 1024
"""What a fingerprint covers at most: the beginning of a file, as far as it was read."""

_CHUNK_BYTES = 1 << 19
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip"}


class FilePosition(msgspec.Struct, frozen=True):
    """How far a file was read.

    Attributes:
        path: its name when it was opened, absolute.
        device, inode: what it was then.
        offset: of the first byte not read.
        line: lines read.
        fingerprint: SHA-256 of its first `fingerprint_bytes` bytes, in hexadecimal.
        fingerprint_bytes: how many bytes the fingerprint covers.
    """

    path: str
    device: int
    inode: int
    offset: int
    line: int
    fingerprint: str
    fingerprint_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines of a file and the position behind them."""

    path: Path
    lines: Lines
    position: FilePosition


@dataclass(slots=True)
class _OpenFile:
    """A file that is being read; `head` is its beginning, for the fingerprint."""

    path: Path
    descriptor: int
    device: int
    inode: int
    offset: int
    head: bytes

    @classmethod
    def open(cls, path: Path, offset: int = 0) -> Self:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file, and only such a one can be read again")
            head = os.pread(descriptor, min(offset, HEAD_BYTES), 0) if offset else b""
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, status.st_dev, status.st_ino, offset, head)

    def read(self) -> bytes:
        data = os.pread(self.descriptor, _CHUNK_BYTES, self.offset)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        self.offset += len(data)
        return data

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def begins_anew(self) -> bool:
        """Whether it was truncated, or written over from its beginning."""
        head = os.pread(self.descriptor, len(self.head), 0)
        return self.size() < self.offset or head != self.head

    def has_lost_its_name(self, path: Path) -> bool:
        """Whether `path` is now another file; a missing one is about to be created."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != (self.device, self.inode)

    def close(self) -> None:
        os.close(self.descriptor)


class FileTail:
    """Reads the lines of the file at `path`, from `position` on.

    The file that `position` was taken in is found by its content, under `path` or as a rotated file
    beside it; it is read to its end, then whatever is at `path` from its beginning. A file that was
    replaced or truncated is read from its beginning.

    Without `follow`, reading ends at the end of the file, and a last line without newline counts.
    With it there is no end: such a line waits for its newline until its file is rotated or
    truncated, and `path` need not exist yet.

    Args:
        path: the file.
        position: what was read before, if anything.
        follow: whether to wait for more.
        limit: the longest line, in bytes.

    Raises:
        SourceError: the file cannot be opened.
    """

    def __init__(
        self, path: Path, position: FilePosition | None = None, *, follow: bool, limit: int
    ) -> None:
        self._path = path
        self._follow = follow
        self._limit = limit
        self._file: _OpenFile | None = None
        self._rotation_seen = False
        self._splitter = LineSplitter(limit)
        self.finished = False
        if position is not None and (source := _find(path, position)) is not None:
            self._open(source, position.offset, position.line)
        elif not follow or path.exists():
            self._open(path)

    def read(self, most: int) -> Piece | None:
        """Up to `most` lines, or None when there are none now; `finished` tells if ever.

        Raises:
            SourceError: the file cannot be read.
        """
        try:
            while not self._splitter.ready:
                if self._follow and self._file is not None and self._file.begins_anew():
                    if not self._last_line():
                        logger.warning("%s was truncated: reading it anew", self._path)
                        self._open(self._path)
                elif self._file is not None and (data := self._file.read()):
                    self._splitter.feed(data)
                elif not self._go_on():
                    return None
        except OSError as error:
            raise SourceError(f"cannot read {self._path}: {error}") from error
        assert self._file is not None
        lines = self._splitter.take(most)
        return Piece(self._file.path, lines, self._position(self._file))

    @property
    def offset(self) -> int:
        """Of the first byte not taken."""
        return self._splitter.offset

    def lag(self) -> int:
        """Bytes of the open file that were not taken yet."""
        if self._file is None:
            return 0
        return max(0, self._file.size() - self._splitter.offset)

    def caught_up(self) -> bool:
        """Whether everything that is in the file has been taken, but for an unfinished line."""
        return self._file is None or (
            not self._splitter.ready and self._file.offset >= self._file.size()
        )

    def size(self) -> int:
        """Bytes in the open file."""
        return 0 if self._file is None else self._file.size()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path, offset: int = 0, line: int = 0) -> None:
        try:
            opened = _OpenFile.open(path, offset)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
        self.close()
        self._file = opened
        self._rotation_seen = False
        self._splitter = LineSplitter(self._limit, offset, line)

    def _go_on(self) -> bool:
        """At the end of what there is: whether another file, or the last line, gives more."""
        if self._file is None:
            if not self._path.exists():
                return False
            self._open(self._path)
        elif self._file.has_lost_its_name(self._path):
            if self._follow and not self._rotation_seen:
                # Its writer may still have it open: look once more before leaving it.
                self._rotation_seen = True
                return False
            if not self._last_line():
                self._open(self._path)
        elif not self._follow and not self._last_line():
            self.finished = True
            return False
        elif self._follow:
            return False
        return True

    def _last_line(self) -> bool:
        """Count the unfinished line of a file that will not grow; whether there is one."""
        partial = self._splitter.partial
        self._splitter.finish()
        return partial

    def _position(self, file: _OpenFile) -> FilePosition:
        offset = self._splitter.offset
        head = file.head[:offset]
        return FilePosition(
            path=str(self._path),
            device=file.device,
            inode=file.inode,
            offset=offset,
            line=self._splitter.line,
            fingerprint=_fingerprint(head),
            fingerprint_bytes=len(head),
        )


def _fingerprint(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()


def _find(path: Path, position: FilePosition) -> Path | None:
    """The file that was read up to `position`: the same file first, then the same content."""
    candidates = [path, *_rotated(path)]
    same = [candidate for candidate in candidates if _has_content(candidate, position)]
    for candidate in same:
        status = candidate.stat()
        if (status.st_dev, status.st_ino) == (position.device, position.inode):
            return candidate
    return same[0] if same and position.fingerprint_bytes else None


def _rotated(path: Path) -> Iterator[Path]:
    """Files beside `path` whose names begin with its name: `x.log.1`, `x.log-20240101`."""
    for candidate in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        if (
            candidate.name.startswith(path.name)
            and candidate.name != path.name
            and candidate.suffix not in _COMPRESSED
            and candidate.is_file()
        ):
            yield candidate


def _has_content(path: Path, position: FilePosition) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(position.fingerprint_bytes)
            return (
                os.fstat(file.fileno()).st_size >= position.offset
                and len(head) == position.fingerprint_bytes
                and _fingerprint(head) == position.fingerprint
            )
    except OSError:
        return False
