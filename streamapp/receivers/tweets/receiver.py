"""Tweets into a topic, each exactly once: stream what is new, search for what was missed.

What is known to be complete is kept as an id: nothing below it is missing on the topic. Whatever is
searched for again, or comes twice from the stream itself, is told by its id.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final

from aiokafka.errors import KafkaError

from streamapp.receivers.clock import Clock
from streamapp.receivers.connection import Bootstrap
from streamapp.receivers.errors import BrokerUnavailable
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.receivers.receiver import Receiver
from streamapp.receivers.tweets.api import (
    Api,
    BearerToken,
    RuleError,
    XApiUnavailable,
    keep_out_of_logs,
)
from streamapp.receivers.tweets.backlog import Backlog
from streamapp.receivers.tweets.collector import Collector
from streamapp.receivers.tweets.completeness import Completeness
from streamapp.receivers.tweets.connection import Connection
from streamapp.receivers.tweets.gap import GapFiller
from streamapp.receivers.tweets.ids import id_at
from streamapp.receivers.tweets.inbox import Inbox
from streamapp.receivers.tweets.kept import KeptBacklog
from streamapp.receivers.tweets.life import Life
from streamapp.receivers.tweets.progress import Progress, Summary, TweetPosition
from streamapp.receivers.tweets.rules import Rule, RuleBook
from streamapp.receivers.tweets.window import read_published

__all__ = ["TweetReceiver"]

logger = logging.getLogger(__name__)

OVERLAP: Final = 60.0
"""Seconds below what is complete from which search begins: delivery is not in order."""

MEMORY_BYTES: Final = 16 << 20
DISK_BYTES: Final = 1 << 30

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 320.0


class TweetReceiver(Receiver[TweetPosition, Summary]):
    """Publishes what the filtered stream selects, by the rules that are on the server.

    Started again under the same name, it finds what was written meanwhile. A record's key is the
    tweet's id, its value the line of the stream: `{data, includes, matching_rules}`; one that search
    has found has the header `found-by: search`. The lag is the number of lines that wait here.

    Args:
        topic: where tweets go; created with `partitions` if it is missing.
        token: the app's.
        api: where the X API is.
        bootstrap: the broker's address, `host:port`, or a `Connection`.
        name: under which the position is kept.
        partitions: of a new topic.
        rules: to be on the server before it connects; those that are missing are added.
        replace_rules: whether the server is to have `rules` alone; others are deleted.
        overlap: seconds by which a search begins earlier than it would have to; at least 60.
        backfill_minutes: what to ask the stream for at a connect; enterprise access only.
        memory, disk: bytes of lines that may wait for Kafka; beyond them the stream is left, and
            what it sends meanwhile is searched for.
        log: a directory for all lines that wait, instead of `memory` and `disk`: what was received
            is not lost in a crash then, even if search would not find it again.
        log_bytes: what may wait there.
        patience: seconds for which a failing broker is asked again.
        clock: what tells the time; it has to be right within `overlap`.
        on_progress: called after every transaction.

    Raises:
        ValueError: `overlap` or `backfill_minutes` is out of range, or there are no rules to
            replace others.
    """

    reliable: ClassVar[bool] = True

    def __init__(
        self,
        topic: str,
        token: BearerToken,
        *,
        api: Api | None = None,
        bootstrap: Bootstrap = "localhost:9092",
        name: str = "tweets",
        partitions: int = 4,
        rules: Sequence[Rule] = (),
        replace_rules: bool = False,
        overlap: float = OVERLAP,
        backfill_minutes: int | None = None,
        memory: int = MEMORY_BYTES,
        disk: int = DISK_BYTES,
        log: Path | None = None,
        log_bytes: int = DISK_BYTES,
        patience: float = 60.0,
        clock: Clock | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        if overlap < OVERLAP:
            raise ValueError(f"overlap must be at least {OVERLAP:g} seconds, not {overlap:g}")
        if backfill_minutes is not None and not 1 <= backfill_minutes <= 5:
            raise ValueError(f"backfill_minutes must be 1 to 5, not {backfill_minutes}")
        if replace_rules and not rules:
            raise ValueError("rules must be given to replace those on the server")
        super().__init__(
            topic,
            name,
            TweetPosition,
            bootstrap=bootstrap,
            partitions=partitions,
            patience=patience,
            clock=clock,
        )
        self.summary = Summary(topic, name)
        self._token = token
        self._api = api or Api()
        self._rules = rules
        self._replace_rules = replace_rules
        self._overlap_ms = int(overlap * 1000)
        self._backfill_minutes = backfill_minutes
        self._memory = memory
        self._disk = disk
        self._log = log
        self._log_bytes = log_bytes
        self._on_progress = on_progress
        self._living: Life | None = None
        keep_out_of_logs(token)

    @property
    def progress(self) -> Progress:
        """Where it is now; what keeps it from the stream shows here while nothing is published."""
        return Progress("starting", 0, 0, None) if self._living is None else self._living.progress

    async def run(self) -> Summary:
        """Publish until `stop`, and tell what was done, over all lives.

        Raises:
            XApiError: the API does not accept us: 401 or 403.
            RuleError: there are no rules on the server, or one of ours is wrong.
            BrokerUnavailable, TakenOver, PublishError, PositionError, TopicError: see
                `PositionedPublisher`.
        """
        started = self._clock.monotonic()
        try:
            return await super().run()
        finally:
            self.summary.seconds += self._clock.monotonic() - started

    async def prepare(self) -> None:
        """See to the rules: without any nothing is selected.

        A server that cannot be reached is waited for if it is to have other rules.
        """
        pause = _FIRST_PAUSE
        while not self.stopping:
            try:
                async with RuleBook(self._token, self._api) as book:
                    await self._see_to_rules(book)
                return
            except XApiUnavailable as error:
                if not self._rules:
                    logger.warning("%s", error)
                    return
                logger.warning("%s: asking again in %.0f s", error, pause)
                await self._pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _see_to_rules(self, book: RuleBook) -> None:
        if self._rules:
            change = book.sync if self._replace_rules else book.ensure
            logger.info("%s", await change(self._rules))
        elif not await book.list():
            raise RuleError(
                "there are no rules on the server, so that nothing is selected: give one with"
                " --rule 'python lang:en', or a file of them with --rules"
            )

    async def receive(self, publisher: PositionedPublisher[TweetPosition]) -> Summary:
        """Stream, search and publish until `stop`."""
        life = self._living = await self._life(publisher)

        def on_commit(records: int) -> None:
            progress = life.progress
            self.published(records, progress.backlog)
            if self._on_progress is not None:
                self._on_progress(progress)

        await life.live(self._stopping.wait(), on_commit)
        return self.summary

    async def _life(self, publisher: PositionedPublisher[TweetPosition]) -> Life:
        """A life that begins at the committed position; before the first, nothing is missing."""
        clock, summary = self._clock, self.summary
        position = publisher.position or TweetPosition(id_at(clock.now_ms()))
        summary.position = position
        window_ms = 2 * self._overlap_ms + 60_000 * (self._backfill_minutes or 0)
        completeness = Completeness(position.complete, window_ms, clock)
        try:
            published = await read_published(self.bootstrap, self.topic, completeness.floor)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(self.bootstrap, error) from error
        inbox = Inbox(
            Backlog(self._memory, self._disk)
            if self._log is None
            else KeptBacklog(self._log, self.topic, self.name, self._log_bytes)
        )
        collector = Collector(
            position, completeness, published, publisher.max_record_bytes, clock, summary
        )
        connection = Connection(
            self._token,
            self._api,
            clock,
            inbox,
            position.connects,
            summary,
            backfill_minutes=self._backfill_minutes,
        )
        filler = GapFiller(
            self._token,
            self._api,
            clock,
            connection,
            completeness,
            inbox,
            self._overlap_ms,
            summary,
        )
        return Life(
            publisher,
            inbox,
            connection,
            filler,
            collector,
            completeness,
            clock=clock,
            summary=summary,
        )
