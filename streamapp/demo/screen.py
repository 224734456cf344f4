"""The demo's view: one screen, drawn from a tally."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nlargest
from io import StringIO
from typing import Final, Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamapp.demo.pulse import Pulse, sparkline
from streamapp.demo.tally import Tally, WindowCounts

__all__ = [
    "QUIET",
    "Screen",
    "apart",
    "date_of",
    "export_svg",
    "stacked_bar",
    "table_of",
    "time_of_day",
]

_WIDEST = 110
_NARROWEST = 70
_BATCHES = 3
_FRAME = 16
"""Lines of the screen that are not windows."""

_SHORTEST_BAR = 18
"""The watermark stands above it."""

_COLOURS: Final = ("cyan", "yellow", "magenta", "blue", "green")
_OTHER_COLOUR: Final = "white"
QUIET = "bright_black"
_FIXED = 19 + 5 + 6 + 4 * 2
"""Columns of the windows that are not bar or names, and the space behind each."""


@dataclass(slots=True)
class Screen:
    """What the view needs beside the tally.

    Attributes:
        log: the name of the log, for reading.
        note: what the demo is doing just now, in a sentence. hint: what the user can do.
    """

    tally: Tally
    ingested: Pulse
    processed: Pulse
    errors: Pulse
    log: str
    log_bytes: int
    note: str = ""
    hint: str = ""

    def draw(self, width: int, height: int) -> RenderableType:
        """The whole view, in so many columns and at most so many lines."""
        width = max(_NARROWEST, min(width, _WIDEST))
        windows = _latest(self.tally.windows.values(), max(3, height - _FRAME))
        # First come, first served: a module keeps its colour.
        colours = dict(zip(self.tally.modules, _COLOURS, strict=False))
        return Group(
            self._title(width),
            Text(),
            self._numbers(width),
            Text(),
            self._batches(width),
            Text(),
            self._windows(windows, colours, width),
            Text(),
            apart(Text(self.note, style="bold"), Text(self.hint, style=QUIET), width),
        )

    def beat(self, now: float) -> None:
        """Another second is over, at `now` of the clock."""
        self.ingested.beat(self.tally.ingested, now)
        self.processed.beat(self.tally.processed, now)
        self.errors.beat(self.tally.errors, now)

    def line(self) -> str:
        """The view in one line, for where there is no terminal."""
        tally = self.tally
        final = sum(window.final for window in tally.windows.values())
        return (
            f"ingested {tally.ingested:,} ({self.ingested.rate:,.0f}/s)"
            f"  processed {tally.processed:,} ({self.processed.rate:,.0f}/s)"
            f"  batches {tally.batches:,}  errors {tally.errors:,}"
            f"  windows {len(tally.windows):,} ({final:,} final)"
            f"  late {tally.late:,}  watermark {time_of_day(tally.watermark)}"
        )

    # ------------------------------------------------------------------ its parts

    def _title(self, width: int) -> RenderableType:
        left = Text.assemble(("streamapp demo", "bold"), ("  exactly once", QUIET))
        right = Text(f"{self.log} → log-lines → error-windows", style=QUIET)
        return apart(left, right, width)

    def _numbers(self, width: int) -> RenderableType:
        tally = self.tally
        trail = min(30, width - 62)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style=QUIET, width=9)
        grid.add_column(justify="right", width=11, style="bold")
        grid.add_column(justify="right", width=10)
        grid.add_column(width=trail, style="cyan", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", width=width - 38 - trail)
        grid.add_row(
            "ingested",
            f"{tally.ingested:,}",
            f"{self.ingested.rate:,.0f}/s",
            sparkline(self.ingested.rates, trail),
            Text(f"{self._share():.0%} of the log", style=QUIET),
        )
        behind = tally.ingested - tally.processed
        grid.add_row(
            "processed",
            f"{tally.processed:,}",
            f"{self.processed.rate:,.0f}/s",
            sparkline(self.processed.rates, trail),
            Text(f"{behind:,} behind" if behind > 0 else "caught up", style=QUIET),
        )
        grid.add_row(
            "errors",
            f"{tally.errors:,}",
            f"{self.errors.rate:,.0f}/s",
            sparkline(self.errors.rates, trail),
            Text.assemble(
                (f"late {tally.late:,}", "red" if tally.late else QUIET),
                (", ", QUIET),
                (f"dead letters {tally.dead_letters:,}", "red" if tally.dead_letters else QUIET),
            ),
        )
        return grid

    def _share(self) -> float:
        position = self.tally.position
        if position is None or not self.log_bytes:
            return 0.0
        return min(position.offset / self.log_bytes, 1.0)

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


def time_of_day(milliseconds: int | None) -> str:
    """Hours, minutes and seconds, in UTC."""
    return "none yet" if milliseconds is None else f"{_utc(milliseconds):%H:%M:%S}"


def date_of(milliseconds: int) -> str:
    """Day, month and year, in UTC."""
    return f"{_utc(milliseconds):%d %b %Y}"


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


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


def table_of(width: int) -> Table:
    """An empty table in the demo's style."""
    return Table(
        box=box.SIMPLE_HEAD,
        width=width,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style=QUIET,
        border_style=QUIET,
    )


def apart(left: Text, right: Text, width: int) -> RenderableType:
    """One line with both ends; what does not fit is cut off the right one, or else the left one."""
    left.truncate(width, overflow="ellipsis")
    right.truncate(max(0, width - len(left) - 2), overflow="ellipsis")
    return Text.assemble(left, " " * (width - len(left) - len(right)), right, no_wrap=True)


class Drawn(Protocol):
    """What can be shown: a screen of either kind."""

    def draw(self, width: int, height: int) -> RenderableType: ...


def export_svg(screen: Drawn, width: int = 100, height: int = 34) -> str:
    """The view as an SVG image, as a terminal of that size shows it."""
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(screen.draw(width, height))
    svg = console.export_svg(title="streamapp demo", unique_id="demo")
    # rich names a font on the net; a picture in a README fetches nothing.
    return re.sub(r"@font-face {.*?}\s*", "", svg, flags=re.DOTALL)
