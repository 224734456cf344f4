"""A file into a topic, line by line, exactly once: reliable, since a file can be read again.

Lines are published as they are, raw bytes, without their line ends; empty lines are skipped.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from streamapp.receivers.clock import Clock, Pace
from streamapp.receivers.connection import Bootstrap
from streamapp.receivers.errors import SourceError
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher
from streamapp.receivers.receiver import Receiver
from streamapp.receivers.tail import FilePosition, FileTail, Piece
from streamapp.receivers.topics import dead_letters_of

__all__ = ["FileReceiver", "Progress", "Summary"]

logger = logging.getLogger(__name__)

BATCH_LINES = 10_000
"""Lines in one transaction: enough to make its cost small, few enough to keep it short."""

LINGER = 0.2
"""Seconds between two looks at a file that is followed, and the longest wait of a paced line."""

KEY_BYTES = 256
"""What of a match becomes a key; a line and its key have to fit into one record."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a receiver is, since it started.

    lines: published. size: bytes read. lag: bytes of the file still to read. total: bytes in it.
    """

    lines: int
    size: int
    lag: int
    total: int


@dataclass(slots=True)
class Summary:
    """What a receiver has done, from its start to its end.

    Attributes:
        path, topic, name: from where, to where, and under which name.
        resumed_at: the offset in the file where it went on; 0 is the beginning.
        lines: published. empty: skipped. oversized: sent to the dead-letter topic.
        size: bytes read, with line ends.
        transactions: committed.
        seconds: that it took.
        position: the committed one, or None when nothing was ever read.
    """

    path: str
    topic: str
    name: str
    resumed_at: int = 0
    lines: int = 0
    empty: int = 0
    oversized: int = 0
    size: int = 0
    transactions: int = 0
    seconds: float = 0.0
    position: FilePosition | None = None

    def add(self, piece: Piece) -> None:
        """Count a committed piece."""
        lines = piece.lines
        self.lines += len(lines.lines)
        self.empty += lines.taken - len(lines.lines) - len(lines.oversized)
        self.oversized += len(lines.oversized)
        self.size += lines.size
        self.transactions += 1
        self.position = piece.position


class FileReceiver(Receiver[FilePosition, Summary]):
    """Publishes the lines of a file to a topic, each exactly once, whatever happens in between.

    Started again under the same name, it goes on where it was. Two at a time under one name exclude
    each other: the later one takes over.

    Args:
        path: the file.
        topic: where its lines go; created with `partitions` if it is missing.
        bootstrap: the broker's address, `host:port`, or a `Connection`.
        name: under which the position is kept; by default the file's absolute path.
        partitions: of a new topic.
        rate: lines a second; None is as fast as possible.
        follow: whether to wait for more lines at the end of the file, also when it is rotated.
        batch_lines: the most in one transaction; half a megabyte is the most as well.
        key: a pattern whose group `key`, or first group, or whole match becomes a line's key, up
            to 256 bytes of it. Lines without a match, and all lines without a pattern, go round
            the partitions.
        patience: seconds for which a failing broker is asked again.
        clock: what tells the time.
        on_progress: called after every transaction.

    Raises:
        ValueError: `rate` or `batch_lines` is not positive.
    """

    reliable: ClassVar[bool] = True

    def __init__(
        self,
        path: Path | str,
        topic: str,
        *,
        bootstrap: Bootstrap = "localhost:9092",
        name: str | None = None,
        partitions: int = 4,
        rate: float | None = None,
        follow: bool = False,
        batch_lines: int = BATCH_LINES,
        key: re.Pattern[bytes] | None = None,
        patience: float = 60.0,
        clock: Clock | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        if batch_lines < 1:
            raise ValueError(f"batch_lines must be positive, not {batch_lines}")
        self.path = Path(path).absolute()
        super().__init__(
            topic,
            name if name is not None else f"file:{self.path}",
            FilePosition,
            bootstrap=bootstrap,
            partitions=partitions,
            patience=patience,
            clock=clock,
        )
        self._follow = follow
        self._key = key
        self._pace = Pace(rate, self._clock)
        self._most = batch_lines if rate is None else max(1, min(batch_lines, int(rate * LINGER)))
        self._on_progress = on_progress
        self.summary = Summary(str(self.path), topic, self.name)

    def check(self) -> None:
        """Without `follow` the file has to be there."""
        if not self._follow and not self.path.exists():
            raise SourceError(f"there is no file {self.path} (with --follow it may come later)")

    async def run(self) -> Summary:
        """Publish until the end of the file, or until `stop`, and tell what was done.

        Raises:
            SourceError: the file cannot be read.
            BrokerUnavailable, TakenOver, PublishError, PositionError, TopicError: see
                `PositionedPublisher`.
        """
        started = self._clock.monotonic()
        try:
            return await super().run()
        finally:
            self.summary.seconds += self._clock.monotonic() - started

    async def receive(self, publisher: PositionedPublisher[FilePosition]) -> Summary:
        """Publish from the position on; the summary covers all lives of this receiver."""
        with FileTail(
            self.path, publisher.position, follow=self._follow, limit=publisher.max_record_bytes
        ) as tail:
            summary = self.summary
            if summary.position is None:
                summary.resumed_at, summary.position = tail.offset, publisher.position
            await self._publish(tail, publisher, summary)
        return summary

    async def _publish(
        self, tail: FileTail, publisher: PositionedPublisher[FilePosition], summary: Summary
    ) -> None:
        while not self.stopping:
            piece = await self._next(tail)
            if piece is None:
                if tail.finished:
                    return
                await self._pause(LINGER)
                continue
            lines, dead_letters = piece.lines.lines, _dead_letters(piece)
            await publisher.publish(
                lines,
                piece.position,
                keys=None if self._key is None else [self._key_of(line) for line in lines],
                dead_letters=dead_letters,
            )
            summary.add(piece)
            self.published(len(lines), tail.lag())
            for line in dead_letters:
                logger.error("%s. It went to %s", line.reason, dead_letters_of(self.topic))
            if self._on_progress is not None:
                self._on_progress(Progress(summary.lines, summary.size, tail.lag(), tail.size()))
            if self._follow and tail.caught_up():
                await self._pause(LINGER)

    async def _next(self, tail: FileTail) -> Piece | None:
        """What is to be published next, when it is time to; None when there is nothing now."""
        piece = tail.read(self._most)
        if piece is not None:
            await self._pause(self._pace.delay(piece.lines.taken))
        return piece

    def _key_of(self, line: bytes) -> bytes | None:
        assert self._key is not None
        found = self._key.search(line)
        if found is None:
            return None
        groups = found.groupdict()
        group: bytes | None = groups["key"] if "key" in groups else found[min(1, self._key.groups)]
        return None if group is None else group[:KEY_BYTES]


def _dead_letters(piece: Piece) -> list[DeadLetter]:
    return [
        DeadLetter(
            line.start,
            f"{piece.path}, line {line.number + 1} (at byte {line.offset}) has {line.length} bytes,"
            " more than the topic takes: raise its max.message.bytes, or shorten the line",
            [
                ("source", str(piece.path).encode()),
                ("line", str(line.number + 1).encode()),
                ("offset", str(line.offset).encode()),
                ("length", str(line.length).encode()),
            ],
        )
        for line in piece.lines.oversized
    ]
