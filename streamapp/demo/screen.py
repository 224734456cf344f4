"""The demo's view, drawn from a tally: the frame of it, which every job fills with what it finds."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any, ClassVar, Final, Generic, TypeVar

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamapp.demo.tally import Tally
from streamapp.demo.trail import Trail, sparkline

__all__ = [
    "QUIET",
    "Screen",
    "date_of",
    "export_svg",
    "table_of",
    "time_of_day",
]

QUIET: Final = "bright_black"
_WIDEST: Final = 110
_NARROWEST: Final = 70

AnyTally = TypeVar("AnyTally", bound=Tally)


class Screen(ABC, Generic[AnyTally]):
    """A view of a tally.

    Args:
        tally: what is known.
        source: the name of what is read, for reading.
        size: of the file that is read, in bytes; None where there is no end to come near to.
        now: seconds of any clock, when the view begins.

    Attributes:
        note: what the demo is doing just now, in a sentence. hint: what the user can do.
    """

    flow: ClassVar[str]
    """The topics that records go through, for reading."""

    def __init__(self, tally: AnyTally, source: str, size: int | None, now: float) -> None:
        self.tally = tally
        self.note = ""
        self.hint = ""
        self._source = source
        self._size = size
        self._trails = {name: Trail(total, now) for name, total in self.totals().items()}

    # ------------------------------------------------------------------ what a job says

    def totals(self) -> dict[str, int]:
        """What only grows, by name."""
        return {"ingested": self.tally.ingested, "processed": self.tally.processed}

    @abstractmethod
    def body(self, width: int, height: int) -> tuple[RenderableType, RenderableType]:
        """The two parts that the job is about; the view has so many lines in all."""

    @abstractmethod
    def found(self) -> str:
        """What was found, at the end of `line`."""

    @abstractmethod
    def third(self) -> tuple[str, str, str, Sequence[float]]:
        """The third row of numbers: its name, a total, its pace, and how that was before."""

    # ------------------------------------------------------------------ the frame

    def beat(self, now: float) -> None:
        """Another second is over, at `now` of the clock."""
        for name, total in self.totals().items():
            self._trails[name].beat(total, now)

    def rate(self, name: str) -> float:
        """How many a second, of a total."""
        return self._trails[name].rate

    def rates(self, name: str) -> Sequence[float]:
        """How many a second for the last minute, of a total."""
        return self._trails[name].rates

    def line(self) -> str:
        """The view in one line, for where there is no terminal."""
        totals = (
            f"{name} {total:,} ({self.rate(name):,.0f}/s)"
            for name, total in Screen.totals(self).items()
        )
        return "  ".join([*totals, f"batches {self.tally.batches:,}", self.found()])

    def draw(self, width: int, height: int) -> RenderableType:
        """The whole view, in so many columns and at most so many lines."""
        width = max(_NARROWEST, min(width, _WIDEST))
        upper, lower = self.body(width, height)
        return Group(
            self._title(width),
            Text(),
            self._numbers(width),
            Text(),
            upper,
            Text(),
            lower,
            Text(),
            _apart(Text(self.note, style="bold"), Text(self.hint, style=QUIET), width),
        )

    def _title(self, width: int) -> RenderableType:
        left = Text.assemble(("streamapp demo", "bold"), ("  exactly once", QUIET))
        return _apart(left, Text(f"{self._source} → {self.flow}", style=QUIET), width)

    def _numbers(self, width: int) -> RenderableType:
        tally = self.tally
        trail = min(30, width - 62)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style=QUIET, width=9)
        grid.add_column(justify="right", width=11, style="bold")
        grid.add_column(justify="right", width=10)
        grid.add_column(width=trail, style="cyan", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", width=width - 38 - trail)
        behind = tally.ingested - tally.processed
        said = [self._share(), f"{behind:,} behind" if behind > 0 else "caught up"]
        for (name, total), words in zip(Screen.totals(self).items(), said, strict=True):
            pace = f"{self.rate(name):,.0f}/s"
            trail_of = sparkline(self.rates(name), trail)
            grid.add_row(name, f"{total:,}", pace, trail_of, Text(words, style=QUIET))
        name, number, pace, rates = self.third()
        losses = Text.assemble(
            (f"late {tally.late:,}", "red" if tally.late else QUIET),
            (", ", QUIET),
            (f"dead letters {tally.dead_letters:,}", "red" if tally.dead_letters else QUIET),
        )
        grid.add_row(name, number, pace, sparkline(rates, trail), losses)
        return grid

    def _share(self) -> str:
        if self._size is None:
            return "live"
        share = min(self.tally.offset / self._size, 1.0) if self._size else 0.0
        return f"{share:.0%} read"


def time_of_day(milliseconds: int | None) -> str:
    """Hours, minutes and seconds, in UTC."""
    return "none yet" if milliseconds is None else f"{_utc(milliseconds):%H:%M:%S}"


def date_of(milliseconds: int) -> str:
    """Day, month and year, in UTC."""
    return f"{_utc(milliseconds):%d %b %Y}"


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


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


def _apart(left: Text, right: Text, width: int) -> RenderableType:
    """One line with both ends; what does not fit is cut off the right one, or else the left one."""
    left.truncate(width, overflow="ellipsis")
    right.truncate(max(0, width - len(left) - 2), overflow="ellipsis")
    return Text.assemble(left, " " * (width - len(left) - len(right)), right, no_wrap=True)


def export_svg(screen: Screen[Any], width: int = 100, height: int = 34) -> str:
    """The view as an SVG image, as a terminal of that size shows it."""
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(screen.draw(width, height))
    svg = console.export_svg(title="streamapp demo", unique_id="demo")
    # rich names a font on the net; a picture in a README fetches nothing.
    return re.sub(r"@font-face {.*?}\s*", "", svg, flags=re.DOTALL)
