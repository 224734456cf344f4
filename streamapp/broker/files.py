"""A partition's batches in files: segments that are appended to, finished, replaced and deleted.

A directory holds the segments of one partition. `{base}.log` grows, or is finished when the next one
begins; `{base}-{until}.log` is what compaction has left of everything from `base` to `until`. A
compacted file appears whole, by a rename; what it replaces is deleted after, or when the directory
is opened again after a crash in between.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from . import batches
from .errors import JournalCorrupt
from .journal import FrameFile
from .segments import Place, Rewrite

_NAME = re.compile(r"(\d{20})(?:-(\d{20}))?\.log")
_TEMPORARY = ".tmp"


@dataclass(slots=True, eq=False)
class _Segment:
    file: FrameFile
    base: int
    #: The offset after the last one in it.
    until: int


@dataclass(frozen=True, slots=True)
class _Position:
    segment: _Segment
    start: int
    size: int


class FileStore:
    """The segments of one partition; a `streamapp.broker.segments.Store`.

    `segment_bytes` says how large a segment may become. Nothing is opened before `recover` or the
    first append.
    """

    def __init__(self, directory: Path, segment_bytes: Callable[[], int]) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        #: Whether the last segment may grow.
        self._growing = False

    def recover(self) -> Iterator[tuple[bytes, Place]]:
        """All batches that are there, in order; `JournalCorrupt` if they cannot be."""
        found = self._files()
        expected = 0
        for number, (base, until, path) in enumerate(found):
            last = number == len(found) - 1
            segment = _Segment(FrameFile(path), base, base if until is None else until)
            self._segments.append(segment)
            for position, data in segment.file.recover(whole=not last or until is not None):
                header = batches.parse(data)
                if header.base_offset < max(expected, base):
                    raise JournalCorrupt(path, position, f"offset {header.base_offset} is too low")
                expected = header.base_offset + header.last_offset_delta + 1
                segment.until = max(segment.until, expected)
                yield data, _Position(segment, position, len(data))
            self._growing = until is None

    @property
    def end(self) -> int:
        """The offset after the last one of the files, also of those that compaction emptied."""
        return self._segments[-1].until if self._segments else 0

    def _files(self) -> list[tuple[int, int | None, Path]]:
        """The segments' files in order, without what compaction was about to delete."""
        if not self._directory.exists():
            return []
        found: list[tuple[int, int | None, Path]] = []
        for path in self._directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                found.append((int(match[1]), int(match[2]) if match[2] else None, path))
            elif path.suffix == _TEMPORARY:
                path.unlink()
        # Compacted files first, the longest first: each covers all that begins within it.
        found.sort(key=lambda each: (each[0], each[1] is None, -(each[1] or 0)))
        kept: list[tuple[int, int | None, Path]] = []
        covered = -1
        for base, until, path in found:
            if base < covered:
                path.unlink()
                continue
            kept.append((base, until, path))
            covered = covered if until is None else until
        return kept

    def append(self, data: bytes, base: int, until: int) -> Place:
        segment = self._active(base)
        position = segment.file.append(data)
        segment.until = until
        return _Position(segment, position, len(data))

    def _active(self, base: int) -> _Segment:
        if self._growing:
            segment = self._segments[-1]
            if segment.file.size < self._segment_bytes():
                return segment
            self._finish()
        self._directory.mkdir(parents=True, exist_ok=True)
        segment = _Segment(FrameFile(self._directory / f"{base:020d}.log"), base, base)
        self._segments.append(segment)
        self._growing = True
        return segment

    def _finish(self) -> None:
        if self._growing:
            self._segments[-1].file.flush()
            self._growing = False

    def read(self, places: Sequence[Place]) -> bytes:
        positions = cast("Sequence[_Position]", places)
        parts: list[bytes | memoryview] = []
        first = 0
        while first < len(positions):
            segment = positions[first].segment
            last = first
            while last + 1 < len(positions) and positions[last + 1].segment is segment:
                last += 1
            start = positions[first].start
            data = segment.file.read(start, positions[last].start + positions[last].size - start)
            if first == last:
                parts.append(data)
            else:
                view = memoryview(data)
                parts += [
                    view[each.start - start : each.start - start + each.size]
                    for each in positions[first : last + 1]
                ]
            first = last + 1
        return b"".join(parts)

    def boundary(self, limit: int) -> int:
        # A segment of which nothing can be replaced yet goes on growing.
        if self._growing and self._segments[-1].base < limit:
            self._finish()
        finished = self._segments[:-1] if self._growing else self._segments
        return max((each.until for each in finished if each.until <= limit), default=0)

    def rewrite(self, until: int) -> Rewrite:
        return _Rewrite(self._directory, self._segments, until)

    def drop_before(self, offset: int) -> None:
        while self._segments and self._segments[0].until <= offset:
            segment = self._segments.pop(0)
            segment.file.close()
            segment.file.path.unlink(missing_ok=True)
            self._growing = self._growing and bool(self._segments)

    def flush(self) -> None:
        if self._segments:
            self._segments[-1].file.flush()

    def close(self) -> None:
        for each in self._segments:
            each.file.close()
        self._segments.clear()

    def delete(self) -> None:
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class _Rewrite:
    """A compacted file in the making; a `streamapp.broker.segments.Rewrite`."""

    def __init__(self, directory: Path, segments: list[_Segment], until: int) -> None:
        self._directory = directory
        self._segments = segments
        self._replaced = [each for each in segments if each.base < until]
        base = self._replaced[0].base
        self._path = directory / f"{base:020d}-{until:020d}.log"
        temporary = self._path.with_suffix(_TEMPORARY)
        temporary.unlink(missing_ok=True)
        self._segment = _Segment(FrameFile(temporary), base, until)

    def add(self, data: bytes) -> Place:
        return _Position(self._segment, self._segment.file.append(data), len(data))

    def commit(self) -> None:
        file = self._segment.file
        file.flush()
        file.path = file.path.rename(self._path)
        _flush_directory(self._directory)
        for each in self._replaced:
            each.file.close()
            if each.file.path != self._path:
                each.file.path.unlink(missing_ok=True)
        self._segments[: len(self._replaced)] = [self._segment]

    def discard(self) -> None:
        self._segment.file.close()
        self._segment.file.path.unlink(missing_ok=True)


def _flush_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
