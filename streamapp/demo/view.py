"""Where the view goes: a live screen on a terminal, elsewhere a line a second and a last picture."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live

from streamapp.demo.screen import Screen

__all__ = ["View"]

_BEAT_SECONDS = 1.0
_PICTURE_LINES = 36
"""Of the last picture where there is no terminal."""


class View:
    """Shows a screen on a console; a context, within which the console is its.

    Args:
        now: seconds of any clock, as for `show`.
    """

    def __init__(self, console: Console, screen: Screen[Any], now: float) -> None:
        self._console = console
        self._beaten = now
        self.screen = screen
        self._live = (
            Live(console=console, auto_refresh=False, vertical_overflow="crop")
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, note: str, now: float, *, last: bool = False) -> None:
        """Draw what is known, with a sentence on what the demo is doing."""
        screen = self.screen
        changed, screen.note = note != screen.note, note
        screen.hint = "" if last else "Ctrl-C ends the demo"
        beat = now - self._beaten >= _BEAT_SECONDS
        if beat:
            screen.beat(now)
            self._beaten = now
        if self._live is not None:
            size = self._console.size
            self._live.update(screen.draw(size.width, size.height - 1), refresh=True)
        elif last:
            self._console.print(screen.draw(self._console.width, _PICTURE_LINES))
        elif beat:
            self._say(screen.line())
        if self._live is None and changed and not last:
            self._say(note)

    def _say(self, text: str) -> None:
        print(text, file=self._console.file, flush=True)
