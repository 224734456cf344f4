"""One life of a receiver of tweets: streaming, searching and publishing side by side.

All that a life knows is in here, and goes with it: the next one begins at the committed position.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from streamapp.faults import fault_point
from streamapp.receivers.clock import Clock
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.receivers.topics import dead_letters_of
from streamapp.receivers.tweets.collector import BATCH_BYTES, Batch, Collector
from streamapp.receivers.tweets.completeness import Completeness
from streamapp.receivers.tweets.connection import Connection
from streamapp.receivers.tweets.gap import GapFiller
from streamapp.receivers.tweets.ids import time_of
from streamapp.receivers.tweets.inbox import Inbox
from streamapp.receivers.tweets.progress import Progress, Summary, TweetPosition

__all__ = ["Life"]

logger = logging.getLogger(__name__)

LINGER: Final = 0.2
"""Seconds for which lines are collected into one transaction."""


class Life:
    """Publishes what a connection and a search put into an inbox, and is the only one who does.

    Args:
        publisher: publishes.
        inbox, connection, filler: where tweets come from.
        collector, completeness: what becomes of them.
        clock: what tells the time.
        summary: where it counts.
    """

    def __init__(
        self,
        publisher: PositionedPublisher[TweetPosition],
        inbox: Inbox,
        connection: Connection,
        filler: GapFiller,
        collector: Collector,
        completeness: Completeness,
        *,
        clock: Clock,
        summary: Summary,
    ) -> None:
        self._publisher = publisher
        self._inbox = inbox
        self._connection = connection
        self._filler = filler
        self._collector = collector
        self._completeness = completeness
        self._clock = clock
        self._summary = summary

    @property
    def progress(self) -> Progress:
        """Where it is."""
        newest = self._collector.newest
        behind = (self._clock.now_ms() - time_of(newest)) / 1000 if newest else None
        backlog = len(self._inbox.backlog)
        return Progress(self._activity, self._summary.published, backlog, behind)

    @property
    def _activity(self) -> str:
        if trouble := self._connection.trouble:
            return trouble
        filled = self._completeness.has_no_gap_before(self._connection.made_ms)
        return "streaming" if filled else "filling a gap"

    async def live(self, stopped: Awaitable[object], on_commit: Callable[[int], None]) -> None:
        """Receive until one of the tasks fails or `stopped` is done; then publish the rest.

        Args:
            stopped: ends it.
            on_commit: called after every transaction with the number of its records.

        Raises:
            XApiError: the API does not accept us: 401 or 403.
            BrokerUnavailable, TakenOver, PublishError, TopicError: see `PositionedPublisher`.
        """
        publishing = asyncio.ensure_future(self._publish(on_commit))
        sources = [
            asyncio.ensure_future(self._connection.keep()),
            asyncio.ensure_future(self._filler.fill()),
            asyncio.ensure_future(stopped),
        ]
        try:
            await asyncio.wait({publishing, *sources}, return_when=asyncio.FIRST_COMPLETED)
            if not publishing.done():
                # Whatever ended, what was received is published first.
                await _cancelled(*sources)
                self._inbox.end()
                await asyncio.wait({publishing})
            for task in (publishing, *sources):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            await _cancelled(publishing, *sources)
            self._inbox.backlog.close()

    async def _publish(self, on_commit: Callable[[int], None]) -> None:
        inbox = self._inbox
        while not (inbox.ended and inbox.empty):
            await inbox.filled()
            if not inbox.ended and inbox.backlog.size < BATCH_BYTES:
                await self._clock.sleep(LINGER)
            batch = self._collector.collect(inbox)
            if batch.values or batch.dead_letters or batch.due:
                await self._commit(batch)
                on_commit(len(batch.values))

    async def _commit(self, batch: Batch) -> None:
        position = self._collector.position
        await self._publisher.publish(
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
            logger.error("%s. It went to %s", letter.reason, dead_letters_of(self._publisher.topic))
        self._collector.committed()
        self._inbox.backlog.committed()
        summary = self._summary
        summary.published += len(batch.values)
        summary.dead_letters += len(batch.dead_letters)
        summary.transactions += 1
        summary.position = position


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel what still runs, and return when it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
