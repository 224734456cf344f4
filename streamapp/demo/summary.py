"""What the demo has found, for a program to read."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from streamapp.demo.log_tally import LogTally
from streamapp.demo.tally import Tally
from streamapp.demo.tweet_tally import TweetTally
from streamapp.tweets import Trends

__all__ = ["LogSummary", "Start", "Summary", "TweetSummary", "WindowSummary"]


class Start(msgspec.Struct, frozen=True):
    """This start of the demo.

    Attributes:
        source: what it has read, for reading.
        resumed_from: records that were published before it.
        done: whether all that the source holds is counted.
    """

    source: str
    resumed_from: int
    done: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, over all starts of a demo.

    Attributes:
        source, resumed_from, done: as of `Start`.
        ingested: records that were published. processed: of these, in committed checkpoints.
        batches: committed ones, of records and of partial counts.
        late: counts that came when their windows were closed.
        dead_letters: records that could not be read.
        watermark: how far event time has come, milliseconds since the epoch.
    """

    source: str
    ingested: int
    resumed_from: int
    processed: int
    done: bool
    batches: int
    late: int
    dead_letters: int
    watermark: int | None

    @classmethod
    def _of(cls, tally: Tally, start: Start, **found: Any) -> Self:
        return cls(
            **msgspec.structs.asdict(start),
            ingested=tally.ingested,
            processed=tally.processed,
            batches=tally.batches,
            late=tally.late,
            dead_letters=tally.dead_letters,
            watermark=tally.watermark,
            **found,
        )


class WindowSummary(msgspec.Struct, frozen=True):
    """The errors in the window `[start, end)`, milliseconds since the epoch."""

    start: int
    end: int
    total: int
    by_module: dict[str, int]
    final: bool


class LogSummary(Summary, frozen=True, kw_only=True):
    """What was found in a log.

    Attributes:
        errors: error lines among those that were processed.
        windows: those that hold something, the oldest first.
    """

    errors: int
    windows: list[WindowSummary]

    @classmethod
    def of(cls, tally: LogTally, start: Start) -> LogSummary:
        """Sum up a tally."""
        windows = [
            WindowSummary(each.start, each.end, each.total, each.by_module, each.final)
            for _, each in sorted(tally.windows.items())
        ]
        return cls._of(tally, start, errors=tally.errors, windows=windows)


class TweetSummary(Summary, frozen=True, kw_only=True):
    """What was found in tweets.

    Attributes:
        latest: the trends of each language, and of all tweets (`*`), in its latest window.
        windows: the trends of all tweets, the oldest window first.
    """

    latest: dict[str, Trends]
    windows: list[Trends]

    @classmethod
    def of(cls, tally: TweetTally, start: Start) -> TweetSummary:
        """Sum up a tally."""
        return cls._of(
            tally,
            start,
            latest=dict(sorted(tally.latest.items())),
            windows=[found for _, found in sorted(tally.windows.items())],
        )
