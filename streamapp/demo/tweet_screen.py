"""The view of trending hashtags: one screen, drawn from a tally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamapp.demo.pulse import Pulse, sparkline
from streamapp.demo.screen import QUIET, apart, date_of, table_of, time_of_day
from streamapp.demo.tweet_tally import ALL, TweetTally
from streamapp.tweets import Trend, Trends

__all__ = ["TweetScreen"]

_WIDEST = 110
_NARROWEST = 70
_FRAME = 13
"""Lines of the screen that are neither tags nor languages."""

_PLACES = 10
_LANGUAGES: Final = 6
_COUNT: Final = 7


@dataclass(slots=True)
class TweetScreen:
    """What the view needs beside the tally.

    Attributes:
        source: the name of the file, for reading; `source_bytes` is its size.
        note: what the demo is doing just now, in a sentence. hint: what the user can do.
    """

    tally: TweetTally
    ingested: Pulse
    processed: Pulse
    source: str
    source_bytes: int
    note: str = ""
    hint: str = ""

    def beat(self, now: float) -> None:
        """Another second is over, at `now` of the clock."""
        self.ingested.beat(self.tally.ingested, now)
        self.processed.beat(self.tally.processed, now)

    def line(self) -> str:
        """The view in one line, for where there is no terminal."""
        tally = self.tally
        latest = tally.latest.get(ALL)
        found = (
            ""
            if latest is None
            else f"  {time_of_day(latest.end)} top {_first(latest.top)}  rising {_first(latest.rising)}"
        )
        return (
            f"ingested {tally.ingested:,} ({self.ingested.rate:,.0f}/s)"
            f"  processed {tally.processed:,} ({self.processed.rate:,.0f}/s)"
            f"  batches {tally.batches:,}  windows {len(tally.windows):,}  late {tally.late:,}{found}"
        )

    def draw(self, width: int, height: int) -> RenderableType:
        """The whole view, in so many columns and at most so many lines."""
        width = max(_NARROWEST, min(width, _WIDEST))
        room = max(4, height - _FRAME)
        languages = min(_LANGUAGES, max(1, room // 3))
        return Group(
            self._title(width),
            Text(),
            self._numbers(width),
            Text(),
            self._tags(min(_PLACES, room - languages), width),
            Text(),
            self._languages(languages, width),
            Text(),
            apart(Text(self.note, style="bold"), Text(self.hint, style=QUIET), width),
        )

    # ------------------------------------------------------------------ its parts

    def _title(self, width: int) -> RenderableType:
        left = Text.assemble(("streamapp demo", "bold"), ("  exactly once", QUIET))
        return apart(left, Text(f"{self.source} → tweets → trends", style=QUIET), width)

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
            Text(f"{self._share():.0%} of the tweets", style=QUIET),
        )
        behind = tally.ingested - tally.processed
        grid.add_row(
            "processed",
            f"{tally.processed:,}",
            f"{self.processed.rate:,.0f}/s",
            sparkline(self.processed.rates, trail),
            Text(f"{behind:,} behind" if behind > 0 else "caught up", style=QUIET),
        )
        rates = [each.rate for _, each in sorted(tally.windows.items())]
        grid.add_row(
            "tweeted",
            f"{len(rates):,} windows",
            f"{rates[-1] if rates else 0.0:,.1f}/s",
            sparkline(rates, trail),
            Text.assemble(
                (f"late {tally.late:,}", "red" if tally.late else QUIET),
                (", ", QUIET),
                (f"dead letters {tally.dead_letters:,}", "red" if tally.dead_letters else QUIET),
            ),
        )
        return grid

    def _share(self) -> float:
        position = self.tally.position
        if position is None or not self.source_bytes:
            return 0.0
        return min(position.offset / self.source_bytes, 1.0)

    def _tags(self, rows: int, width: int) -> RenderableType:
        latest = self.tally.latest.get(ALL)
        half = (width - 2) // 2
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=half)
        grid.add_column(width=width - half - 2)
        grid.add_row(
            _ranking(_title_of(latest), "tweets", latest.top if latest else (), rows, half, "cyan"),
            _ranking(
                "against their own past",
                "surprise",
                latest.rising if latest else (),
                rows,
                width - half - 2,
                "magenta",
            ),
        )
        return grid

    def _languages(self, rows: int, width: int) -> RenderableType:
        table = table_of(width)
        table.add_column("language", width=9, no_wrap=True)
        table.add_column("tweets", width=_COUNT, justify="right", style="bold")
        table.add_column(
            f"watermark {time_of_day(self.tally.watermark)}",
            ratio=1,
            no_wrap=True,
            overflow="ellipsis",
        )
        newest = max((each.end for each in self.tally.latest.values()), default=0)
        found = [e for e in self.tally.latest.values() if e.scope != ALL and e.end == newest]
        found.sort(key=lambda each: (-each.tweets, each.scope))
        for each in found[:rows]:
            tags = "  ".join(f"#{trend.tag} {trend.count:,}" for trend in each.top[:5])
            table.add_row(each.scope, f"{each.tweets:,}", tags)
        for _ in range(rows - len(found)):
            table.add_row("")
        return table


def _title_of(latest: Trends | None) -> str:
    if latest is None:
        return "no window is over yet"
    start, end = time_of_day(latest.start)[:5], time_of_day(latest.end)[:5]
    return f"{date_of(latest.end)}, {start} \N{EN DASH} {end} UTC"


def _ranking(
    title: str, number: str, trends: Sequence[Trend], rows: int, width: int, colour: str
) -> RenderableType:
    """Tags with a number and a bar: of their tweets, or of their surprise."""
    surprising = number == "surprise"
    name = min(18, width // 2)
    bar = width - name - 11
    values = [trend.surprise if surprising else float(trend.count) for trend in trends]
    highest = max(values, default=0.0)
    table = table_of(width)
    table.add_column(title, width=name + bar + 1, no_wrap=True, overflow="ellipsis")
    table.add_column(number, width=9, justify="right", style="bold")
    for trend, value in list(zip(trends, values, strict=True))[:rows]:
        tag = Text(f"#{trend.tag}", no_wrap=True)
        tag.truncate(name, overflow="ellipsis", pad=True)
        length = round(value / highest * bar) if highest else 0
        tag.append(" " + "▆" * length, style=colour)
        table.add_row(tag, f"{value:,.1f}" if surprising else f"{trend.count:,}")
    for _ in range(rows - min(rows, len(values))):
        table.add_row("")
    return table


def _first(trends: Sequence[Trend]) -> str:
    return f"#{trends[0].tag}" if trends else "(none)"
