"""The samples that are published where there is nothing else to read, written once into a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from streamapp import sample_logs, sample_tweets

__all__ = ["LOG_LINES", "PLANTED", "TWEETS", "write_sample_log", "write_sample_tweets"]

LOG_LINES: Final = 12_000
"""About half an hour of a server's life."""

LOG_SEED: Final = 43
"""A log whose incidents are well spread, the first of them after a thousand lines."""

TWEETS: Final = 36_000
"""An hour of event time, or a little less."""

TWEETS_SEED: Final = 7
TWEETS_RATE: Final = 10.0
"""Tweets a second of event time."""

PLANTED: Final = sample_tweets.Trend(
    "eclipse2026", begin=timedelta(minutes=10), length=timedelta(minutes=5)
)
"""A tag that nobody used before: it is what surprises most, as long as it lasts."""


def write_sample_log(path: Path) -> bool:
    """Write an error log unless it is there; return whether that was needed."""
    return _write(path, sample_logs.generate(LOG_LINES, LOG_SEED))


def write_sample_tweets(path: Path) -> bool:
    """Write tweets as the stream sends them, a line each; return whether that was needed."""
    found = sample_tweets.generate(TWEETS, TWEETS_SEED, rate=TWEETS_RATE, trend=PLANTED)
    return _write(path, map(msgspec.json.encode, found))


def _write(path: Path, lines: Iterable[bytes]) -> bool:
    if path.exists():
        return False
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
    unfinished.rename(path)
    return True
