"""The files of a directory into a topic, line by line, exactly once: new ones, growing and rotated.

A file is known by its content: a hash of how it begins and one of the bytes before the place up to
which it was read. So a rotated file goes on under its new name, also when it was copied and
truncated, and another file that gets its name or its inode is read from its beginning.

Limits: hidden and compressed files, and folders within, are left out. A file that is removed before
it was read is lost. Within a file lines keep their order; files come by the time of their last change.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from streamapp.receivers.errors import SourceError
from streamapp.receivers.lines import Lines, LineSplitter, OversizedLine
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher
from streamapp.receivers.receiver import Receiver
from streamapp.receivers.topics import dead_letters_of

__all__ = ["DirectoryPosition", "DirectoryReceiver", "DirectorySummary", "FilePart"]

logger = logging.getLogger(__name__)

LINGER: Final = 0.5
"""Seconds between two looks at a directory in which nothing has changed."""

FORGET: Final = 5.0
"""Seconds after which a file that is no longer there is forgotten."""

_HASHED_BYTES = 1024
_CHUNK_BYTES = 1 << 19
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip"}


class FilePart(msgspec.Struct, frozen=True):
    """How far one file was read, and what was in it.

    Attributes:
        name: that it had then.
        device, inode: what it was then.
        offset: of the first byte not read; line: lines before it.
        head, tail: SHA-256 of the first bytes, and of the last ones before `offset`: of 1,024, or
            of all where these are fewer.
    """

    name: str
    device: int
    inode: int
    offset: int
    line: int
    head: str
    tail: str


class DirectoryPosition(msgspec.Struct, frozen=True):
    """How far every file was read that is in the directory."""

    files: tuple[FilePart, ...] = ()


@dataclass(slots=True)
class DirectorySummary:
    """What a receiver has done, from its start to its end.

    Attributes:
        path, topic, name: from where, to where, and under which name.
        files: that lines were read of. lines: published. empty: skipped.
        oversized: sent to the dead-letter topic.
        size: bytes read. transactions: committed.
        seconds: that it took.
    """

    path: str
    topic: str
    name: str
    files: int = 0
    lines: int = 0
    empty: int = 0
    oversized: int = 0
    size: int = 0
    transactions: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of the directory, with the part of it that was read before, if it is known."""

    path: Path
    device: int
    inode: int
    size: int
    part: FilePart | None

    @property
    def offset(self) -> int:
        return 0 if self.part is None else self.part.offset


class DirectoryReceiver(Receiver[DirectoryPosition, DirectorySummary]):
    """Publishes the lines of all files in a directory.

    Args:
        path: the directory.
        topic: where the lines go.
        pattern: which names are read, as a shell writes it.
        follow: whether to wait for more, for ever. Without it a last line without newline counts;
            with it such a line waits for its newline.
        name: under which the position is kept; by default `dir:` and the absolute path.
        on_progress: called with the summary and the bytes still to read after every transaction.
        options: those of `Receiver`.
    """

    reliable: ClassVar[bool] = True

    def __init__(
        self,
        path: Path | str,
        topic: str,
        *,
        pattern: str = "*",
        follow: bool = False,
        name: str | None = None,
        on_progress: Callable[[DirectorySummary, int], None] | None = None,
        **options: Any,
    ) -> None:
        self.path = Path(path).absolute()
        super().__init__(topic, name or f"dir:{self.path}", DirectoryPosition, **options)
        self.summary = DirectorySummary(str(self.path), topic, self.name)
        self._pattern = pattern
        self._follow = follow
        self._on_progress = on_progress
        self._missed: dict[FilePart, float] = {}

    def check(self) -> None:
        """The directory has to be there."""
        if not self.path.is_dir():
            raise SourceError(f"there is no directory {self.path}")

    async def run(self) -> DirectorySummary:
        """Publish what there is, or until `stop`, and tell what was done, over all lives.

        Raises:
            SourceError: the directory or a file cannot be read.
            BrokerUnavailable, TakenOver, PublishError, PositionError, TopicError: see
                `PositionedPublisher`.
        """
        started = self._clock.monotonic()
        try:
            return await super().run()
        finally:
            self.summary.seconds += self._clock.monotonic() - started

    async def receive(self, publisher: PositionedPublisher[DirectoryPosition]) -> DirectorySummary:
        """Look at the directory again and again, and publish what is new."""
        unfinished: dict[Path, int] = {}
        while not self.stopping:
            files, parts = self._scan(publisher.position or DirectoryPosition())
            lag = sum(file.size - file.offset for file in files)
            for file in files:
                if file.size == file.offset or unfinished.get(file.path) == file.size:
                    continue
                if await self._publish(file, parts, lag, publisher):
                    break
                # A line that lacks its newline: nothing to do before the file has grown.
                unfinished[file.path] = file.size
            else:
                if not self._follow:
                    break
                await self._pause(LINGER)
        return self.summary

    def _scan(self, position: DirectoryPosition) -> tuple[list[_Found], list[FilePart]]:
        """The files that are there, the one that was changed first first, and the parts to keep."""
        try:
            entries = sorted(self._entries(), key=lambda entry: (entry[1].st_mtime_ns, entry[0]))
            known = _match(entries, position.files)
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error}") from error
        matched = set(known.values())
        now = self._clock.monotonic()
        # A file that is being renamed can be missing from one look at the directory.
        self._missed = {
            part: self._missed.get(part, now) for part in position.files if part not in matched
        }
        kept = [part for part in position.files if now - self._missed.get(part, now) < FORGET]
        return [
            _Found(path, status.st_dev, status.st_ino, status.st_size, known.get(path))
            for path, status in entries
        ], kept

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.path.glob(self._pattern):
            if path.name.startswith(".") or path.suffix in _COMPRESSED:
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status

    async def _publish(
        self,
        found: _Found,
        parts: list[FilePart],
        lag: int,
        publisher: PositionedPublisher[DirectoryPosition],
    ) -> bool:
        """Publish the next lines of a file; False when there is no whole line in it.

        Raises:
            SourceError: it cannot be read.
        """
        try:
            with found.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != (found.device, found.inode):
                    return True
                lines = self._read(file.fileno(), found, publisher.max_record_bytes)
                if not lines.taken:
                    return False
                part = _part(file.fileno(), found, lines)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise SourceError(f"cannot read {found.path}: {error}") from error
        await publisher.publish(
            lines.lines,
            DirectoryPosition((*(other for other in parts if other != found.part), part)),
            dead_letters=[self._dead_letter(found, line) for line in lines.oversized],
        )
        self._count(found, lines, lag - lines.size)
        return True

    def _read(self, descriptor: int, found: _Found, limit: int) -> Lines:
        """The next whole lines, at least one if there is one; the last one as it is at the end."""
        splitter = LineSplitter(limit, found.offset, 0 if found.part is None else found.part.line)
        at = found.offset
        while not splitter.ready:
            data = os.pread(descriptor, _CHUNK_BYTES, at)
            if not data:
                if not self._follow:
                    splitter.finish()
                break
            splitter.feed(data)
            at += len(data)
        return splitter.take(splitter.ready)

    def _count(self, found: _Found, lines: Lines, lag: int) -> None:
        summary = self.summary
        summary.files += found.part is None
        summary.lines += len(lines.lines)
        summary.oversized += len(lines.oversized)
        summary.empty += lines.taken - len(lines.lines) - len(lines.oversized)
        summary.size += lines.size
        summary.transactions += 1
        self.published(len(lines.lines), max(0, lag))
        if self._on_progress is not None:
            self._on_progress(summary, max(0, lag))

    def _dead_letter(self, found: _Found, line: OversizedLine) -> DeadLetter:
        reason = (
            f"{found.path}, line {line.number + 1} (at byte {line.offset}) has {line.length} bytes,"
            " more than the topic takes: raise its max.message.bytes, or shorten the line"
        )
        logger.error("%s. It goes to %s", reason, dead_letters_of(self.topic))
        return DeadLetter(
            line.start,
            reason,
            [
                ("source", str(found.path).encode()),
                ("line", str(line.number + 1).encode()),
                ("offset", str(line.offset).encode()),
                ("length", str(line.length).encode()),
            ],
        )


def _match(
    entries: list[tuple[Path, os.stat_result]], parts: tuple[FilePart, ...]
) -> dict[Path, FilePart]:
    """Which file is which part that was read.

    The same file with the same content, under whatever name; then a copy of one that is still
    there with other content by now, as rotation by copying and truncating leaves it.
    """
    known: dict[Path, FilePart] = {}
    left = list(parts)
    here = {(status.st_dev, status.st_ino) for _, status in entries}
    for copies in (False, True):
        for path, status in entries:
            for part in left if path not in known else ():
                is_same = (status.st_dev, status.st_ino) == (part.device, part.inode)
                wanted = (part.device, part.inode) in here if copies else is_same
                if wanted and status.st_size >= part.offset and _has(path, part):
                    known[path] = part
                    left.remove(part)
                    break
    return known


def _has(path: Path, part: FilePart) -> bool:
    try:
        with path.open("rb") as file:
            return _hashes(file.fileno(), part.offset) == (part.head, part.tail)
    except FileNotFoundError:
        return False


def _part(descriptor: int, found: _Found, lines: Lines) -> FilePart:
    offset = found.offset + lines.size
    line = lines.taken + (0 if found.part is None else found.part.line)
    head, tail = _hashes(descriptor, offset)
    return FilePart(found.path.name, found.device, found.inode, offset, line, head, tail)


def _hashes(descriptor: int, offset: int) -> tuple[str, str]:
    size = min(offset, _HASHED_BYTES)
    head, tail = (os.pread(descriptor, size, at) for at in (0, offset - size))
    return hashlib.sha256(head).hexdigest(), hashlib.sha256(tail).hexdigest()
