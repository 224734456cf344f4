"""A recorded file at the pace at which it was recorded, or faster: a reliable source to try jobs on.

The records carry their times. The first one that is published in a life of the receiver is due at
once, and every other as much later as its time says, divided by the speed.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from streamapp.receivers.errors import SourceError
from streamapp.receivers.file import FileReceiver, Summary
from streamapp.receivers.lines import Lines
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.receivers.tail import FilePosition, FileTail, Piece

__all__ = ["ReplayReceiver", "time_in"]

SLICE: Final = 0.2
"""Seconds of the replay that are published together."""

MOST: Final = 2_000
"""Lines of one transaction."""

_FIELDS = ("created_at", "timestamp", "@timestamp", "time", "data.created_at")
_ISO = re.compile(
    rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_APACHE = re.compile(rb"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}")
_MILLISECONDS = 1e11


class ReplayReceiver(FileReceiver):
    """Publishes the lines of a recorded file when they are due.

    Started again under the same name, it goes on where it was, and the next line is due at once.
    A line without a time goes with the one before it.

    Args:
        path: JSON objects, one a line, or log lines with a time in them.
        topic: where the lines go.
        speed: 2 is twice as fast as recorded.
        field: of the JSON objects, that holds the time (ISO 8601, or seconds or milliseconds since
            the epoch); `a.b` is a field within a field. Without one the usual names are tried.
        name: by default `replay:` and the file's absolute path.
        options: those of `FileReceiver`.

    Raises:
        ValueError: `speed` is not positive.
    """

    def __init__(
        self,
        path: Path | str,
        topic: str,
        *,
        speed: float = 1.0,
        field: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be positive, not {speed}")
        path = Path(path).absolute()
        super().__init__(path, topic, name=name or f"replay:{path}", **options)
        self._speed = speed
        self._time_of = time_in(field)
        self._held: Piece | None = None
        self._origin: tuple[float, float] | None = None

    async def receive(self, publisher: PositionedPublisher[FilePosition]) -> Summary:
        """Publish from the position on, which is due now."""
        self._held = self._origin = None
        return await super().receive(publisher)

    async def _next(self, tail: FileTail) -> Piece | None:
        """All lines that are due by now, once there is one.

        Raises:
            SourceError: the first line has no time.
        """
        due: list[Piece] = []
        while len(due) < MOST:
            piece = self._held or tail.read(1)
            self._held = None
            if piece is None:
                break
            wait = self._wait(piece)
            if wait > 0 and due:
                self._held = piece
                break
            if wait > 0:
                await self._pause(max(wait, SLICE))
                if self.stopping:
                    return None
            due.append(piece)
        return _together(due) if due else None

    def _wait(self, piece: Piece) -> float:
        """Seconds until a line is due; it counts as due when it has no time."""
        time = self._time_of(piece.lines.lines[0]) if piece.lines.lines else None
        now = self._clock.monotonic()
        if time is None:
            if self._origin is None and piece.lines.lines:
                raise SourceError(
                    f"{self.path}: there is no time in line {piece.position.line}: name the field"
                    " that has it (--time), or give a --rate instead"
                )
            return 0.0
        if self._origin is None:
            self._origin = (now, time)
        began, first = self._origin
        return began + (time - first) / self._speed - now


def time_in(field: str | None) -> Callable[[bytes], float | None]:
    """What finds the time of a line, in seconds since the epoch; None where there is none."""
    fields = [name.split(".") for name in ([field] if field else _FIELDS)]

    def find(line: bytes) -> float | None:
        if line.lstrip().startswith(b"{"):
            try:
                record = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return None
            for path in fields:
                if (seconds := _seconds(_within(record, path))) is not None:
                    return seconds
            return None
        return None if field else _in_text(line)

    return find


def _within(record: object, path: list[str]) -> object:
    for name in path:
        if not isinstance(record, dict):
            return None
        record = record.get(name)
    return record


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value / 1000 if abs(value) >= _MILLISECONDS else float(value)
    return _in_text(value.encode()) if isinstance(value, str) else None


def _in_text(text: bytes) -> float | None:
    try:
        if found := _ISO.search(text):
            time = datetime.fromisoformat(found[0].decode().replace(",", "."))
        elif found := _APACHE.search(text):
            time = datetime.strptime(found[0].decode(), "%a %b %d %H:%M:%S %Y")  # noqa: DTZ007
        else:
            return None
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _together(pieces: list[Piece]) -> Piece:
    """Consecutive pieces of one file as one; the last one's position is behind them all."""
    parts = [piece.lines for piece in pieces]
    return Piece(
        pieces[-1].path,
        Lines(
            [line for part in parts for line in part.lines],
            [line for part in parts for line in part.oversized],
            sum(part.taken for part in parts),
            sum(part.size for part in parts),
        ),
        pieces[-1].position,
    )
