"""What the demo has found, for a program to read."""

from __future__ import annotations

import msgspec

from streamapp.demo.tally import Tally
from streamapp.demo.tweet_tally import TweetTally
from streamapp.tweets import Trends

__all__ = ["Summary", "TweetSummary", "WindowSummary"]


class WindowSummary(msgspec.Struct, frozen=True):
    """The errors in the window `[start, end)`, milliseconds since the epoch."""

    start: int
    end: int
    total: int
    by_module: dict[str, int]
    final: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a log, over all starts of its demo.

    Attributes:
        ingested: lines that were published. resumed_from: of these, before this start.
        processed: of these, in committed checkpoints. done: whether that is all of the log.
        errors: error lines among them.
        batches: committed ones, of lines and of partial counts.
        late: counts that came when their windows were closed.
        dead_letters: lines that could not be read.
        watermark: how far event time has come, milliseconds since the epoch.
        windows: those that hold something, the oldest first.
    """

    log: str
    ingested: int
    resumed_from: int
    processed: int
    done: bool
    errors: int
    batches: int
    late: int
    dead_letters: int
    watermark: int | None
    windows: list[WindowSummary]

    @classmethod
    def of(cls, tally: Tally, *, log: str, resumed_from: int, done: bool) -> Summary:
        """Sum up a tally."""
        return cls(
            log=log,
            ingested=tally.ingested,
            resumed_from=resumed_from,
            processed=tally.processed,
            done=done,
            errors=tally.errors,
            batches=tally.batches,
            late=tally.late,
            dead_letters=tally.dead_letters,
            watermark=tally.watermark,
            windows=[
                WindowSummary(each.start, each.end, each.total, each.by_module, each.final)
                for _, each in sorted(tally.windows.items())
            ],
        )


class TweetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in tweets, over all starts of their demo; the first fields are `Summary`'s.

    Attributes:
        latest: the trends of each language, and of all tweets (`*`), in its latest window.
        windows: the trends of all tweets, the oldest window first.
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
    latest: dict[str, Trends]
    windows: list[Trends]

    @classmethod
    def of(cls, tally: TweetTally, *, source: str, resumed_from: int, done: bool) -> TweetSummary:
        """Sum up a tally."""
        return cls(
            source=source,
            ingested=tally.ingested,
            resumed_from=resumed_from,
            processed=tally.processed,
            done=done,
            batches=tally.batches,
            late=tally.late,
            dead_letters=tally.dead_letters,
            watermark=tally.watermark,
            latest=dict(sorted(tally.latest.items())),
            windows=[found for _, found in sorted(tally.windows.items())],
        )
