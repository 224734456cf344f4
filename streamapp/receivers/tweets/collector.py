"""From lines to a transaction: which tweets are new, which came once more, which are none."""

import asyncio
import logging
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from streamapp.receivers.clock import Clock
from streamapp.receivers.publisher import DeadLetter
from streamapp.receivers.session import Headers
from streamapp.receivers.tweets.backlog import KEEP_ALIVE, LEFT_OVER, LINE
from streamapp.receivers.tweets.completeness import Completeness
from streamapp.receivers.tweets.ids import id_at
from streamapp.receivers.tweets.inbox import Connecting, Filled, Found, Inbox, Order, Searched
from streamapp.receivers.tweets.lines import Garbage, Notice, Tweet, read_line
from streamapp.receivers.tweets.progress import Summary, TweetPosition
from streamapp.receivers.tweets.window import Published

__all__ = ["BATCH_BYTES", "Batch", "Collector"]

logger = logging.getLogger(__name__)

BATCH_TWEETS: Final = 5_000
BATCH_BYTES: Final = 2 << 20

_KEY_BYTES = 32
_IDLE_COMMIT_MS = 60_000
_FOUND_BY_SEARCH: Final[Headers] = [("found-by", b"search")]
_FROM_STREAM: Final[Headers] = []


class _Origin(Enum):
    """Where a line comes from."""

    STREAM = auto()
    SEARCH = auto()
    #: From the stream, when a process before was connected to it.
    LEFT_OVER = auto()


@dataclass(slots=True)
class Batch:
    """What goes into one transaction; `due` if its position is worth one without records."""

    values: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    committed: list[asyncio.Future[None]] = field(default_factory=list)
    size: int = 0
    searched: bool = False
    due: bool = False


class Collector:
    """Takes what is in the inbox, and knows the position behind it.

    Args:
        position: where to begin.
        completeness: moved on by what is taken.
        published: tweets that the topic has.
        record_bytes: the most that a record may have.
        clock: what tells the time.
        summary: where it counts.
    """

    def __init__(
        self,
        position: TweetPosition,
        completeness: Completeness,
        published: Published,
        record_bytes: int,
        clock: Clock,
        summary: Summary,
    ) -> None:
        self.newest = position.newest
        self._completeness = completeness
        self._published = published
        self._connects = position.connects
        self._limit = record_bytes - _KEY_BYTES
        self._clock = clock
        self._summary = summary
        self._committed_ms = clock.now_ms()
        #: What search has just come to.
        self._searched_ms: int | None = None

    @property
    def position(self) -> TweetPosition:
        """The position behind all that was taken."""
        return TweetPosition(self._completeness.complete, self.newest, self._connects)

    def collect(self, inbox: Inbox) -> Batch:
        """Take up to a transaction's worth."""
        batch = Batch()
        for order in inbox.orders():
            self._take_order(order, batch)
            if batch.size >= BATCH_BYTES:
                break
        for kind, data in inbox.backlog.take(BATCH_TWEETS, BATCH_BYTES - batch.size):
            if kind == LINE:
                self._take_line(data, batch, _Origin.STREAM)
            elif kind == LEFT_OVER:
                self._take_line(data, batch, _Origin.LEFT_OVER)
            elif kind == KEEP_ALIVE:
                self._completeness.reach(id_at(int.from_bytes(data)))
            else:
                self._completeness.connected(int.from_bytes(data))
        if self._searched_ms is not None and not len(inbox.backlog):
            # With nothing left to take, no line that comes is older than what is known of.
            batch.due |= self._completeness.searched(self._searched_ms)
        self._searched_ms = None
        if self._clock.now_ms() - self._committed_ms > _IDLE_COMMIT_MS:
            batch.due = True
        return batch

    def committed(self) -> None:
        """What was taken is on the topic."""
        self._committed_ms = self._clock.now_ms()
        self._published.raise_floor(self._completeness.floor)

    def _take_order(self, order: Order, batch: Batch) -> None:
        match order:
            case Found(lines):
                for line in lines:
                    self._take_line(line, batch, _Origin.SEARCH)
            case Filled(connect_ms):
                self._completeness.filled(connect_ms)
                batch.due = True
            case Searched(before_ms):
                self._searched_ms = before_ms
            case Connecting(connects, committed):
                self._connects = connects
                batch.committed.append(committed)
                batch.due = True

    def _take_line(self, line: bytes, batch: Batch, origin: _Origin) -> None:
        batch.size += len(line)
        match read_line(line):
            case Tweet() as tweet:
                if origin is _Origin.STREAM:
                    self._completeness.reach(tweet.id)
                self._take_tweet(tweet, line, batch, origin)
            case Notice(text):
                self._summary.notices += 1
                logger.warning("The X API says in the stream: %s", text)
            case Garbage(reason):
                batch.dead_letters.append(DeadLetter(line, reason, []))

    def _take_tweet(self, tweet: Tweet, line: bytes, batch: Batch, origin: _Origin) -> None:
        summary = self._summary
        searched = origin is _Origin.SEARCH
        coordinates = [("id", str(tweet.id).encode())]
        if tweet.id < self._published.floor and origin is not _Origin.STREAM:
            # What is complete has moved on since the search began, or since the line was kept.
            summary.duplicates += 1
        elif tweet.id < self._published.floor:
            reason = f"tweet {tweet.id} came too late to know whether it was published before"
            batch.dead_letters.append(DeadLetter(line, reason, coordinates))
        elif not self._published.add(tweet.id):
            summary.duplicates += 1
        elif len(line) > self._limit:
            reason = (
                f"tweet {tweet.id} has {len(line)} bytes, more than the topic takes: raise its"
                " max.message.bytes"
            )
            batch.dead_letters.append(DeadLetter(line, reason, coordinates))
        else:
            batch.values.append(line)
            batch.keys.append(str(tweet.id).encode())
            batch.headers.append(_FOUND_BY_SEARCH if searched else _FROM_STREAM)
            batch.searched = batch.searched or searched
            self.newest = max(self.newest, tweet.id)
            summary.searched += searched
            summary.left_over += origin is _Origin.LEFT_OVER
            summary.edited += tweet.edited
            summary.without_language += not tweet.has_language
            summary.partial += tweet.partial
