"""The trends of all tweets and of each language, by window."""

from __future__ import annotations

from typing import Final

import msgspec

from streamapp.demo.tally import Tally
from streamapp.tweets import Trends

__all__ = ["ALL", "TweetTally"]

ALL: Final = "*"

STEP: Final = 60_000
"""Milliseconds of event time after which there is another window."""


class TweetTally(Tally):
    """What the trends application says.

    Attributes:
        windows: the windows of all tweets, by their end.
        latest: the latest trends of each scope.
    """

    source = "tweets"
    partials = "streamapp-tags-by-key"
    results = "trends"
    counting = "count_tags"
    ledgers = frozenset(
        {
            "streamapp-find_tags-ledger",
            "streamapp-count_tags-ledger",
            "streamapp-rank_tags-ledger",
        }
    )

    windows: dict[int, Trends]

    def __init__(self) -> None:
        super().__init__()
        self.windows = {}
        self.latest: dict[str, Trends] = {}

    @property
    def settled(self) -> bool:
        """Whether every window that is over is ranked, too."""
        if self.watermark is None:
            return super().settled
        ranked = max(self.windows, default=0) >= self.watermark // STEP * STEP
        return super().settled and ranked

    def take_result(self, value: bytes) -> None:
        """Add the trends of a scope in a window."""
        found = _decode_trends(value)
        before = self.latest.get(found.scope)
        if before is None or before.end < found.end:
            self.latest[found.scope] = found
        if found.scope == ALL:
            self.windows[found.end] = found


_decode_trends = msgspec.json.Decoder(Trends).decode
