"""The view of a log's errors: the latest batches, and the windows that fill and close."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from streamapp.demo.log_tally import LogTally, WindowCounts
from streamapp.demo.screen import QUIET, Screen, date_of, table_of, time_of_day

__all__ = ["LogScreen", "stacked_bar"]

_BATCHES = 3
_FRAME = 16
"""Lines of the screen that are not windows."""

_SHORTEST_BAR = 18
"""The watermark stands above it."""

_COLOURS: Final = ("cyan", "yellow", "magenta", "blue", "green")
_OTHER_COLOUR: Final = "white"
_FIXED = 19 + 5 + 6 + 4 * 2
"""Columns of the windows that are not bar or names, and the space behind each."""


class LogScreen(Screen[LogTally]):
    """Windows of errors, the newest on top."""

    flow = "log-lines → error-windows"

    def totals(self) -> dict[str, int]:
        """The errors too."""
        return {**super().totals(), "errors": self.tally.errors}

    def third(self) -> tuple[str, str, str, Sequence[float]]:
        """The errors."""
        pace = f"{self.rate('errors'):,.0f}/s"
        return "errors", f"{self.tally.errors:,}", pace, self.rates("errors")

    def found(self) -> str:
        """Errors and windows."""
        tally = self.tally
        final = sum(window.final for window in tally.windows.values())
        return (
            f"errors {tally.errors:,}  windows {len(tally.windows):,} ({final:,} final)"
            f"  late {tally.late:,}  watermark {time_of_day(tally.watermark)}"
        )

    def body(self, width: int, height: int) -> tuple[RenderableType, RenderableType]:
        """Batches and windows."""
        windows = _latest(self.tally.windows.values(), max(3, height - _FRAME))
        # First come, first served: a module keeps its colour.
        colours = dict(zip(self.tally.modules, _COLOURS, strict=False))
        return self._batches(width), self._windows(windows, colours, width)

    def _batches(self, width: int) -> RenderableType:
        table = table_of(width)
        table.add_column(f"{self.tally.batches:,} batches committed", ratio=1, no_wrap=True)
        for title in ("records", "processing", "commit"):
            table.add_column(title, justify="right", width=10)
        # The time of a commit is known one commit later: measured ones first.
        measured = [batch for batch in self.tally.recent if batch.commit is not None]
        latest = (measured or [*self.tally.recent])[: -_BATCHES - 1 : -1]
        for batch in latest:
            table.add_row(
                Text.assemble(batch.id, (f"  {batch.topology}", QUIET)),
                f"{batch.records:,}",
                f"{batch.processing:,.1f} ms",
                Text("…", style=QUIET) if batch.commit is None else f"{batch.commit:,.1f} ms",
            )
        for _ in range(_BATCHES - len(latest)):
            table.add_row("")
        return table

    def _windows(
        self, windows: list[WindowCounts], colours: dict[str, str], width: int
    ) -> RenderableType:
        bar = max(_SHORTEST_BAR, (width - _FIXED) * 2 // 5)
        names = width - _FIXED - bar
        watermark = time_of_day(self.tally.watermark)
        table = table_of(width)
        title = f"{date_of(windows[0].start)}, UTC" if windows else "windows"
        table.add_column(title, width=19, no_wrap=True)
        table.add_column("", width=5, no_wrap=True)
        table.add_column("errors", justify="right", width=6, style="bold")
        table.add_column(f"watermark {watermark}", width=bar, no_wrap=True)
        table.add_column("by module", width=names, no_wrap=True)
        day = date_of(windows[0].start) if windows else ""
        for window in windows:
            if date_of(window.start) != day:
                day = date_of(window.start)
                table.add_row(Text(day, style=QUIET))
            table.add_row(
                f"{time_of_day(window.start)} \N{EN DASH} {time_of_day(window.end)}",
                Text("final", style=QUIET) if window.final else "open",
                f"{window.total:,}",
                stacked_bar(window, colours, self.tally.highest, bar),
                _modules(window, colours, names),
            )
        if not windows:
            table.add_row(Text("none yet", style=QUIET))
        return table


def stacked_bar(window: WindowCounts, colours: dict[str, str], highest: int, width: int) -> Text:
    """A bar of a window's errors, `width` long for `highest` of them, a segment a module."""
    text = Text(no_wrap=True)
    if not highest:
        return text
    drawn, so_far = 0, 0
    for module, count in _ordered(window, colours):
        so_far += count
        until = round(so_far / highest * width)
        text.append("▆" * (until - drawn), style=colours.get(module, _OTHER_COLOUR))
        drawn = until
    if not drawn and window.total:
        text.append("▏", style=_OTHER_COLOUR)
    return text


def _latest(windows: Iterable[WindowCounts], most: int) -> list[WindowCounts]:
    """The latest windows, the newest first: as many as fit with a line for each other date."""
    picked: list[WindowCounts] = []
    days: set[str] = set()
    for window in nlargest(most, windows, key=lambda window: window.start):
        days.add(date_of(window.start))
        if len(picked) + len(days) > most:
            break
        picked.append(window)
    return picked


def _ordered(window: WindowCounts, colours: dict[str, str]) -> list[tuple[str, int]]:
    """Modules in the order of their colours, so that segments stand below each other."""
    ranks = {module: rank for rank, module in enumerate(colours)}
    return sorted(window.by_module.items(), key=lambda item: (ranks.get(item[0], 99), item[0]))


def _modules(window: WindowCounts, colours: dict[str, str], width: int) -> Text:
    """As many modules as there is room for, the most errors first, and how many more there are."""
    text = Text(no_wrap=True)
    modules = list(window.by_module.items())
    for index, (module, count) in enumerate(modules):
        rest = len(modules) - index - 1
        more = f"  +{rest}" if rest else ""
        gap = "  " if text else ""
        if text and len(text) + len(f"{gap}{module} {count:,}{more}") > width:
            text.append(f"  +{rest + 1}", style=QUIET)
            break
        text.append(gap + module, style=colours.get(module, _OTHER_COLOUR))
        text.append(f" {count:,}")
    text.truncate(width, overflow="ellipsis")
    return text
