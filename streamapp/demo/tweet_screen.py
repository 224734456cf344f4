"""The view of trending hashtags: the most used, the most surprising, and each language's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from streamapp.demo.screen import Screen, date_of, table_of, time_of_day
from streamapp.demo.tweet_tally import ALL, TweetTally
from streamapp.tweets import Trend, Trends

__all__ = ["TweetScreen"]

_FRAME = 13
"""Lines of the screen that are neither tags nor languages."""

_PLACES = 10
_LANGUAGES: Final = 6
_COUNT: Final = 7


class TweetScreen(Screen[TweetTally]):
    """The latest window."""

    flow = "tweets → trends"

    def third(self) -> tuple[str, str, str, Sequence[float]]:
        """Tweets a second of event time, window by window."""
        rates = [each.rate for _, each in sorted(self.tally.windows.items())]
        return "tweeted", f"{len(rates):,} windows", f"{rates[-1] if rates else 0.0:,.1f}/s", rates

    def found(self) -> str:
        """The first of the latest window."""
        tally = self.tally
        found = f"windows {len(tally.windows):,}  late {tally.late:,}"
        latest = tally.latest.get(ALL)
        if latest is None:
            return found
        return (
            f"{found}  {time_of_day(latest.end)} top {_first(latest.top)}"
            f"  rising {_first(latest.rising)}"
        )

    def body(self, width: int, height: int) -> tuple[RenderableType, RenderableType]:
        """Tags and languages."""
        room = max(4, height - _FRAME)
        languages = min(_LANGUAGES, max(1, room // 3))
        return (
            self._tags(min(_PLACES, room - languages), width),
            self._languages(languages, width),
        )

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
