"""Tweets into a topic, each exactly once: stream what is new, search for what was missed.

What is known to be complete is kept as an id: nothing below it is missing on the topic. While a
connection holds and the gap before it is filled, every tweet that is published moves it on; from
the next connect on it stands still until recent search has caught up with that connect. Whatever
comes twice by this, or from the stream itself, is told by its id.

Not found again after a gap: what recent search does not match (`sample:` and `bio:` in a rule), and
what is older than its seven days. Both are logged and counted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from aiokafka.errors import KafkaError

from streamapp.faults import fault_point
from streamapp.receivers.clock import Clock
from streamapp.receivers.errors import BrokerUnavailable
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher
from streamapp.receivers.session import Headers
from streamapp.receivers.topics import dead_letters_of
from streamapp.receivers.tweets.api import (
    Api,
    BearerToken,
    RuleError,
    XApiUnavailable,
    keep_out_of_logs,
    refusal,
)
from streamapp.receivers.tweets.backlog import CONNECTED, KEEP_ALIVE, LINE, Backlog
from streamapp.receivers.tweets.ids import id_at, time_of
from streamapp.receivers.tweets.lines import Garbage, Notice, Tweet, envelopes, read_line
from streamapp.receivers.tweets.pacing import QUOTA, Backoff, quota_delay
from streamapp.receivers.tweets.rules import Rule, RuleBook
from streamapp.receivers.tweets.search import DAYS, Search, Unsearchable
from streamapp.receivers.tweets.stream import End, Stream
from streamapp.receivers.tweets.window import Published, read_published

__all__ = ["Progress", "Summary", "TweetPosition", "TweetReceiver"]

logger = logging.getLogger(__name__)

OVERLAP: Final = 60.0
"""Seconds below what is complete from which search begins: delivery is not in order."""

SILENCE: Final = 30.0
SEARCH_AGAIN: Final = 10.0
INDEX_MARGIN: Final = 10.0
INDEX_PATIENCE: Final = 120.0
"""Seconds after a connect at which the index is taken to have passed it, when it shows nothing."""

BATCH_TWEETS: Final = 5_000
BATCH_BYTES: Final = 2 << 20
LINGER: Final = 0.2
MEMORY_BYTES: Final = 16 << 20
DISK_BYTES: Final = 1 << 30

_KEY_BYTES = 32
_IDLE_COMMIT_MS = 60_000
_CLOCK_ERROR_MS = 300_000
_WEEK_MS = DAYS * 86_400_000
_SEARCH_START_MARGIN_MS = 600_000
_FOUND_BY_SEARCH: Final[Headers] = [("found-by", b"search")]
_FROM_STREAM: Final[Headers] = []


class TweetPosition(msgspec.Struct, frozen=True):
    """How far a receiver of tweets is.

    Attributes:
        complete: the id below which no tweet is missing, but for the overlap.
        newest: the highest id published.
        connects: when it connected, in milliseconds since the epoch: the quota outlives a process.
    """

    complete: int
    newest: int = 0
    connects: list[int] = []


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a receiver is.

    state: what it does. published: tweets since it started. backlog: lines not handled yet.
    behind: seconds since the newest published tweet was written; None before the first.
    """

    state: str
    published: int
    backlog: int
    behind: float | None


@dataclass(slots=True)
class Summary:
    """What a receiver has done, from its start to its end.

    Attributes:
        topic, name: where to, and under which name.
        published: tweets. searched: those of them that search has found.
        duplicates: tweets that came once more.
        edited: published tweets that are later versions. without_language: those without `lang`.
        partial: those with errors beside the tweet.
        dead_letters: lines that were none, too large, or too old to know whether they are new.
        notices: the server's, in the stream, also of disconnects.
        connects: how often it connected. ends: how connections ended.
        unsearchable: rules that recent search does not take.
        alarms: gaps that are older than search goes back.
        spilled: whether the disk was needed.
        transactions: committed.
        seconds: that it took.
        position: the committed one.
    """

    topic: str
    name: str
    published: int = 0
    searched: int = 0
    duplicates: int = 0
    edited: int = 0
    without_language: int = 0
    partial: int = 0
    dead_letters: int = 0
    notices: int = 0
    connects: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    unsearchable: list[str] = field(default_factory=list)
    alarms: int = 0
    spilled: bool = False
    transactions: int = 0
    seconds: float = 0.0
    position: TweetPosition | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """Tweets of a search."""

    lines: list[bytes]


@dataclass(frozen=True, slots=True)
class _Filled:
    """Search has found all that was written before the connect of that time."""

    connected_ms: int


@dataclass(frozen=True, slots=True)
class _Connecting:
    """To be committed before connecting, so that no connect is forgotten."""

    now_ms: int
    committed: asyncio.Future[None]


@dataclass(slots=True)
class _Batch:
    """What goes into one transaction."""

    values: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    committed: list[asyncio.Future[None]] = field(default_factory=list)
    size: int = 0
    searched: bool = False
    due: bool = False


class TweetReceiver:
    """Publishes what the filtered stream selects, by the rules that are on the server.

    Started again under the same name, it finds what was written meanwhile. A record's key is the
    tweet's id, its value the line of the stream: `{data, includes, matching_rules}`; one that search
    has found has the header `found-by: search`.

    Args:
        topic: where tweets go; created with `partitions` if it is missing.
        token: the app's.
        api: where the X API is.
        bootstrap: the broker's address, `host:port`.
        name: under which the position is kept.
        partitions: of a new topic.
        overlap: seconds by which a search begins earlier than it would have to; at least 60.
        backfill_minutes: what to ask the stream for at a connect; enterprise access only.
        memory, disk: bytes of lines that may wait for Kafka; beyond them the stream is left, and
            what it sends meanwhile is searched for.
        spill: the directory for what is on disk.
        patience: seconds for which a failing broker is asked again.
        clock: what tells the time; it has to be right within `overlap`.
        on_progress: called after every transaction.

    Raises:
        ValueError: `overlap` or `backfill_minutes` is out of range.
    """

    def __init__(
        self,
        topic: str,
        token: BearerToken,
        *,
        api: Api | None = None,
        bootstrap: str = "localhost:9092",
        name: str = "tweets",
        partitions: int = 4,
        overlap: float = OVERLAP,
        backfill_minutes: int | None = None,
        memory: int = MEMORY_BYTES,
        disk: int = DISK_BYTES,
        spill: Path | None = None,
        patience: float = 60.0,
        clock: Clock | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        if overlap < OVERLAP:
            raise ValueError(f"overlap must be at least {OVERLAP:g} seconds, not {overlap:g}")
        if backfill_minutes is not None and not 1 <= backfill_minutes <= 5:
            raise ValueError(f"backfill_minutes must be 1 to 5, not {backfill_minutes}")
        self.topic = topic
        self.name = name
        self._token = token
        self._api = api or Api()
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._overlap_ms = int(overlap * 1000)
        self._window_ms = 2 * self._overlap_ms + 60_000 * (backfill_minutes or 0)
        self._patience = patience
        self._clock = clock or Clock()
        self._on_progress = on_progress
        self._backlog = Backlog(memory, disk, spill)
        self._stream = Stream(
            token,
            self._api,
            self._clock,
            silence=SILENCE,
            on_connect=self._connected,
            on_line=self._received,
            on_keep_alive=self._kept_alive,
            backfill_minutes=backfill_minutes,
        )
        self._search = Search(token, self._api, self._clock)
        self._orders: asyncio.Queue[_Found | _Filled | _Connecting] = asyncio.Queue(maxsize=8)
        self._wake = asyncio.Event()
        self._gap = asyncio.Event()
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._state = "starting"
        self._published = Published(0, set())
        self._complete = 0
        self._newest = 0
        self._connects: list[int] = []
        self._connected_ms = 0
        self._reached_ms = 0
        self._filled_ms = 0
        self._since_connect = 0
        self._committed_ms = 0
        self._limit = 0
        self.summary = Summary(topic, name)
        keep_out_of_logs(token)

    def stop(self) -> None:
        """Ask `run` to return once what was received is committed."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    async def run(self) -> Summary:
        """Publish until `stop`, and tell what was done. It ends for no other reason without error.

        Raises:
            XApiError: the API does not accept us: 401 or 403.
            RuleError: there are no rules on the server.
            BrokerUnavailable, TakenOver, PublishError, PositionError, TopicError: see
                `PositionedPublisher`.
        """
        started = self._clock.monotonic()
        await self._check_rules()
        async with PositionedPublisher(
            self._bootstrap,
            self.topic,
            self.name,
            TweetPosition,
            partitions=self._partitions,
            patience=self._patience,
            clock=self._clock,
        ) as publisher:
            await self._resume(publisher)
            try:
                await self._work(publisher)
            finally:
                self._backlog.close()
                self.summary.seconds = self._clock.monotonic() - started
        return self.summary

    async def _check_rules(self) -> None:
        try:
            async with RuleBook(self._token, self._api) as book:
                rules = await book.list()
        except XApiUnavailable as error:
            logger.warning("%s", error)
            return
        if not rules:
            raise RuleError(
                "there are no rules on the server, so that nothing is selected: give one with"
                " --rule 'python lang:en', or a file of them with --rules"
            )

    async def _resume(self, publisher: PositionedPublisher[TweetPosition]) -> None:
        now = self._clock.now_ms()
        position = publisher.position or TweetPosition(id_at(now))
        self._complete, self._newest = position.complete, position.newest
        self._connects = list(position.connects)
        self._limit = publisher.max_record_bytes - _KEY_BYTES
        self._committed_ms = now
        try:
            self._published = await read_published(self._bootstrap, self.topic, self._floor())
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(self._bootstrap, error) from error
        self.summary.position = position

    async def _work(self, publisher: PositionedPublisher[TweetPosition]) -> None:
        """Stream, search and publish, until one of them fails or all is published after `stop`."""
        await self._search.open()
        streaming = asyncio.create_task(self._stream_forever())
        filling = asyncio.create_task(self._fill_forever())
        publishing = asyncio.create_task(self._publish_forever(publisher))
        try:
            await asyncio.wait(
                {streaming, filling, publishing}, return_when=asyncio.FIRST_COMPLETED
            )
            if not publishing.done():
                # Whatever ended, what was received is published first.
                await _cancelled(streaming, filling)
                self._drained.set()
                self._wake.set()
                await asyncio.wait({publishing})
            for task in (publishing, streaming, filling):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            await _cancelled(streaming, filling, publishing)
            await self._search.close()

    # The stream. Its hooks may not wait.

    def _connected(self) -> None:
        self._connected_ms = self._clock.now_ms()
        self._put(CONNECTED, self._connected_ms.to_bytes(8))
        self.summary.connects += 1
        self._state = "filling a gap"
        self._gap.set()

    def _received(self, line: bytes) -> None:
        self._put(LINE, line)

    def _kept_alive(self) -> None:
        self._put(KEEP_ALIVE, self._clock.now_ms().to_bytes(8))

    def _put(self, kind: int, data: bytes) -> None:
        self._backlog.put(kind, data)
        self.summary.spilled = self.summary.spilled or self._backlog.spilled > 0
        self._wake.set()

    async def _stream_forever(self) -> None:
        backoff = Backoff()
        while True:
            await self._pause(quota_delay(self._connects, self._clock.now_ms()))
            if self.stopping:
                return
            self._state = "connecting"
            await self._announce_connect()
            fault_point("tweets.before-connect")
            end = await self._connect_once()
            if end is None:
                return
            self.summary.ends[end.kind if not end.status else str(end.status)] += 1
            if refused := refusal(end.status, self._token, "the filtered stream"):
                raise refused
            pause = backoff.pause(end, self._stream.lasted)
            logger.warning("The stream ended (%s): connecting again in %.1f s", end, pause)
            self._state = f"waiting {pause:.0f} s ({end})"
            await self._pause(pause)
            while end.kind == "full" and self._backlog.spilled and not self.stopping:
                await self._pause(1.0)

    async def _announce_connect(self) -> None:
        committed = asyncio.get_running_loop().create_future()
        await self._give(_Connecting(self._clock.now_ms(), committed))
        await committed

    async def _connect_once(self) -> End | None:
        """How a connection ended; None when it was ended by `stop`."""
        running = asyncio.create_task(self._stream.run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return running.result() if running.done() else None
        finally:
            await _cancelled(running, stopping)

    # The gap before a connect.

    async def _fill_forever(self) -> None:
        while True:
            await self._gap.wait()
            self._gap.clear()
            await self._fill(self._connected_ms)

    async def _fill(self, connected_ms: int) -> None:
        """Search until the index has passed the connect, or there is a later one."""
        since = id_at(self._search_start())
        target = id_at(connected_ms + int(INDEX_MARGIN * 1000))
        patience = connected_ms + int(INDEX_PATIENCE * 1000)
        rules = await self._rules()
        passed = False
        while self._connected_ms == connected_ms:
            began = self._clock.now_ms()
            tip = 0
            for rule in rules:
                tip = max(tip, await self._search_for(rule, since, connected_ms))
            if self._connected_ms != connected_ms:
                return
            # An index that is behind catches up all at once, and not in order: look once more.
            if passed:
                await self._give(_Filled(connected_ms))
                return
            passed = tip >= target or began >= patience
            await self._clock.sleep(SEARCH_AGAIN)

    def _search_start(self) -> int:
        """Milliseconds since the epoch, `overlap` below what is complete, or as search allows."""
        wanted = time_of(self._complete) - self._overlap_ms
        oldest = self._clock.now_ms() - _WEEK_MS
        if time_of(self._complete) < oldest:
            self.summary.alarms += 1
            logger.error(
                "The gap before this connect is longer than the %d days of recent search: tweets"
                " from %d to %d (ms since the epoch) are lost",
                DAYS,
                time_of(self._complete),
                oldest,
            )
        return max(wanted, oldest + _SEARCH_START_MARGIN_MS)

    async def _search_for(self, rule: Rule, since: int, connected_ms: int) -> int:
        """Publish what search finds for a rule, and return the highest id."""
        matching = {"id": rule.id or "", **({"tag": rule.tag} if rule.tag is not None else {})}
        tip = 0
        try:
            async for answer in self._search.pages(rule.value, since):
                lines = envelopes(answer, matching)
                if lines:
                    tip = max(tip, int(answer["meta"]["newest_id"]))
                    await self._give(_Found(lines))
                if self._connected_ms != connected_ms:
                    break
        except Unsearchable as error:
            if rule.value not in self.summary.unsearchable:
                self.summary.unsearchable.append(rule.value)
                logger.error(
                    "Recent search does not take rule %r (%s): what it selects is lost while"
                    " there is no connection",
                    rule.value,
                    error,
                )
        return tip

    async def _rules(self) -> list[Rule]:
        pause = 5.0
        while True:
            try:
                async with RuleBook(self._token, self._api) as book:
                    return list(await book.list())
            except XApiUnavailable as error:
                logger.warning("%s: asking again in %.0f s", error, pause)
                await self._clock.sleep(pause)
                pause = min(pause * 2, 320.0)

    async def _give(self, order: _Found | _Filled | _Connecting) -> None:
        await self._orders.put(order)
        self._wake.set()

    # Publishing: the only owner of what is complete.

    async def _publish_forever(self, publisher: PositionedPublisher[TweetPosition]) -> None:
        while True:
            await self._wake.wait()
            if not self._drained.is_set() and self._backlog.size < BATCH_BYTES:
                await self._clock.sleep(LINGER)
            self._wake.clear()
            batch = self._collect()
            if self._backlog or not self._orders.empty():
                self._wake.set()
            if batch.values or batch.dead_letters or batch.due:
                await self._commit(publisher, batch)
            if self._drained.is_set() and not self._wake.is_set():
                return

    async def _commit(self, publisher: PositionedPublisher[TweetPosition], batch: _Batch) -> None:
        position = TweetPosition(self._complete, self._newest, list(self._connects))
        await publisher.publish(
            batch.values,
            position,
            keys=batch.keys,
            headers=batch.headers if batch.searched else None,
            dead_letters=batch.dead_letters,
        )
        fault_point("tweets.after-publish")
        for waiting in batch.committed:
            if not waiting.done():
                waiting.set_result(None)
        for letter in batch.dead_letters:
            logger.error("%s. It went to %s", letter.reason, dead_letters_of(self.topic))
        self._committed_ms = self._clock.now_ms()
        self._published.raise_floor(self._floor())
        summary = self.summary
        summary.published += len(batch.values)
        summary.dead_letters += len(batch.dead_letters)
        summary.transactions += 1
        summary.position = position
        if self._on_progress is not None:
            newest = time_of(self._newest)
            behind = (self._committed_ms - newest) / 1000 if self._newest else None
            self._on_progress(Progress(self._state, summary.published, len(self._backlog), behind))

    def _collect(self) -> _Batch:
        batch = _Batch()
        while batch.size < BATCH_BYTES and not self._orders.empty():
            match self._orders.get_nowait():
                case _Found(lines):
                    for line in lines:
                        self._take_line(line, batch, searched=True)
                case _Filled(connected_ms):
                    self._filled_ms = connected_ms
                    self._close_gap()
                    batch.due = True
                case _Connecting(now_ms, committed):
                    self._connects = [*self._connects, now_ms][-QUOTA:]
                    batch.committed.append(committed)
                    batch.due = True
        for kind, data in self._backlog.take(BATCH_TWEETS, BATCH_BYTES - batch.size):
            if kind == LINE:
                self._take_line(data, batch, searched=False)
            elif kind == KEEP_ALIVE:
                self._reach(id_at(int.from_bytes(data)))
            else:
                self._reached_ms = int.from_bytes(data)
                self._since_connect = id_at(self._reached_ms)
                self._close_gap()
        if self._clock.now_ms() - self._committed_ms > _IDLE_COMMIT_MS:
            batch.due = True
        return batch

    def _take_line(self, line: bytes, batch: _Batch, *, searched: bool) -> None:
        batch.size += len(line)
        match read_line(line):
            case Tweet() as tweet:
                if not searched:
                    self._reach(tweet.id)
                self._take_tweet(tweet, line, batch, searched=searched)
            case Notice(text):
                self.summary.notices += 1
                logger.warning("The X API says in the stream: %s", text)
            case Garbage(reason):
                batch.dead_letters.append(DeadLetter(line, reason, []))

    def _take_tweet(self, tweet: Tweet, line: bytes, batch: _Batch, *, searched: bool) -> None:
        summary = self.summary
        coordinates = [("id", str(tweet.id).encode())]
        if tweet.id < self._published.floor and searched:
            # What is complete has moved on since the search began.
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
            self._newest = max(self._newest, tweet.id)
            summary.searched += searched
            summary.edited += tweet.edited
            summary.without_language += not tweet.has_language
            summary.partial += tweet.partial

    def _reach(self, tweet: int) -> None:
        """The connection has come to this id. One that lies in the future says nothing."""
        if time_of(tweet) <= self._clock.now_ms() + _CLOCK_ERROR_MS:
            self._since_connect = max(self._since_connect, tweet)
            self._close_gap()

    def _close_gap(self) -> None:
        """What is complete ends where the connection is, if all before the connection is filled."""
        if self._filled_ms == self._reached_ms and self._reached_ms:
            self._complete = max(self._complete, self._since_connect)
            if self._connected_ms == self._reached_ms and self._state == "filling a gap":
                self._state = "streaming"

    def _floor(self) -> int:
        return id_at(time_of(self._complete) - self._window_ms)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not past `stop`."""
        if seconds <= 0:
            return
        sleeping = asyncio.create_task(self._clock.sleep(seconds))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(sleeping, stopping)


async def _cancelled(*tasks: "asyncio.Task[object]") -> None:
    """Cancel what still runs, and return when it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
