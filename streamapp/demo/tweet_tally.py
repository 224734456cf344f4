"""What the topics of the trends application say so far, added up: what the view of tweets shows."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamapp.engine.marker import LedgerEntry
from streamapp.receivers.positions import Committed
from streamapp.receivers.tail import FilePosition
from streamapp.receivers.topics import positions_of
from streamapp.tweets import Trends

__all__ = ["ALL", "TWEETS", "TweetTally"]

TWEETS: Final = "tweets"
TRENDS: Final = "trends"
TAGS: Final = "streamapp-tags-by-key"
ALL: Final = "*"
FINDING: Final = "find_tags"
COUNTING: Final = "count_tags"
LEDGERS: Final = {f"streamapp-{topology}-ledger" for topology in (FINDING, COUNTING, "rank_tags")}


STEP: Final = 60_000
"""Milliseconds of event time after which there is another window."""


class TweetTally:
    """Takes the records of the application's topics, each partition's in order.

    Attributes:
        ingested: tweets that the receiver has published.
        position: how far it is in the file.
        processed: tweets in committed checkpoints.
        batches: committed batches that held records, of all topologies.
        watermark: how far event time has come where tags are counted, in milliseconds.
        windows: the windows of all tweets, by their end.
        latest: the latest trends of each scope.
        late, dead_letters: as the ledger counts them.
    """

    def __init__(self) -> None:
        self.ingested = 0
        self.position: FilePosition | None = None
        self.processed = 0
        self.batches = 0
        self.late = 0
        self.dead_letters = 0
        self.watermark: int | None = None
        self.windows: dict[int, Trends] = {}
        self.latest: dict[str, Trends] = {}
        #: Behind the last record, and up to where it is counted, of each partition of `TAGS`.
        self._found: dict[int, int] = {}
        self._counted: dict[int, int] = {}

    @staticmethod
    def topics() -> set[str]:
        """The topics that it wants to be told."""
        return {TRENDS, TAGS, positions_of(TWEETS), *LEDGERS}

    @staticmethod
    def whole_topics() -> set[str]:
        """Those of them that it needs from their first record on."""
        return set(LEDGERS)

    @property
    def settled(self) -> bool:
        """Whether all that is ingested is counted, and every window that is over is ranked."""
        counted = all(self._counted.get(task, 0) >= end for task, end in self._found.items())
        return self.processed >= self.ingested and counted and self._ranked

    @property
    def _ranked(self) -> bool:
        if self.watermark is None:
            return True
        return max(self.windows, default=0) >= self.watermark // STEP * STEP

    def take(self, topic: str, partition: int, offset: int, key: Any, value: bytes | None) -> None:
        """Add a record of one of the `topics`."""
        if topic == TAGS:
            # Marks of the watermark have neither: nothing is counted there.
            if key is not None or value is not None:
                self._found[partition] = offset + 1
        elif value is None:
            return
        elif topic == TRENDS:
            self._take_trends(_decode_trends(value))
        elif topic == positions_of(TWEETS):
            committed = _decode_position(value)
            self.ingested = committed.published
            self.position = msgspec.json.decode(committed.position, type=FilePosition | None)
        elif topic in LEDGERS:
            self._take_checkpoint(_decode_entry(value))

    def _take_trends(self, found: Trends) -> None:
        before = self.latest.get(found.scope)
        if before is None or before.end < found.end:
            self.latest[found.scope] = found
        if found.scope == ALL:
            self.windows[found.end] = found

    def _take_checkpoint(self, entry: LedgerEntry) -> None:
        for part in entry.batches:
            if part.topic == TWEETS:
                self.processed += part.records
            if part.topic == TAGS:
                self._counted[part.partition] = part.until_offset
            self.batches += bool(part.records)
        self.late += entry.late
        self.dead_letters += entry.dead_letters
        if entry.topology == COUNTING and entry.watermark is not None:
            self.watermark = max(self.watermark or entry.watermark, entry.watermark)


_decode_trends = msgspec.json.Decoder(Trends).decode
_decode_entry = msgspec.json.Decoder(LedgerEntry).decode
_decode_position = msgspec.json.Decoder(Committed).decode
