"""Staying connected to the filtered stream: again after every end, at X's pace."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from streamapp.faults import fault_point
from streamapp.receivers.clock import Clock
from streamapp.receivers.tweets.api import Api, BearerToken, refusal
from streamapp.receivers.tweets.backlog import CONNECTED, KEEP_ALIVE, LINE
from streamapp.receivers.tweets.inbox import Connecting, Inbox
from streamapp.receivers.tweets.pacing import QUOTA, Backoff, quota_delay
from streamapp.receivers.tweets.progress import Summary
from streamapp.receivers.tweets.stream import Stream

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

SILENCE: Final = 30.0
"""Seconds without a byte after which a connection is given up; the server says something every 20."""


class Connection:
    """Connects again and again, and puts what the stream says into the inbox.

    Attributes:
        made: set by every connect.
        made_ms: when the last connect was, in milliseconds since the epoch.
        trouble: what keeps us from being connected; empty when nothing does.

    Args:
        token, api: who we are, and where the API is.
        clock: what tells the time.
        inbox: where lines go, and word of every connect before it is made.
        connects: when there were connects, in milliseconds since the epoch.
        summary: where it counts.
        backfill_minutes: what to ask the stream for at a connect.
    """

    def __init__(
        self,
        token: BearerToken,
        api: Api,
        clock: Clock,
        inbox: Inbox,
        connects: Sequence[int],
        summary: Summary,
        *,
        backfill_minutes: int | None = None,
    ) -> None:
        self.made = asyncio.Event()
        self.made_ms = 0
        self.trouble = "starting"
        self._token = token
        self._clock = clock
        self._inbox = inbox
        self._connects = list(connects)
        self._summary = summary
        self._stream = Stream(
            token,
            api,
            clock,
            silence=SILENCE,
            on_connect=self._connected,
            on_line=lambda line: self._put(LINE, line),
            on_keep_alive=lambda: self._put(KEEP_ALIVE, clock.now_ms().to_bytes(8)),
            backfill_minutes=backfill_minutes,
        )

    async def keep(self) -> None:
        """Connect whenever there is no connection. Cancelling disconnects.

        Raises:
            XApiError: the API does not accept us: 401 or 403.
        """
        backoff = Backoff()
        while True:
            await self._clock.sleep(quota_delay(self._connects, self._clock.now_ms()))
            self.trouble = "connecting"
            await self._announce()
            fault_point("tweets.before-connect")
            end = await self._stream.run()
            self._summary.ends[end.kind if not end.status else str(end.status)] += 1
            if refused := refusal(end.status, self._token, "the filtered stream"):
                raise refused
            pause = backoff.pause(end, self._stream.lasted)
            logger.warning("The stream ended (%s): connecting again in %.1f s", end, pause)
            self.trouble = f"waiting {pause:.0f} s ({end})"
            await self._clock.sleep(pause)
            while end.kind == "full" and self._inbox.backlog.spilled:
                await self._clock.sleep(1.0)

    async def _announce(self) -> None:
        """Let the next connect be committed, so that the quota is kept whatever happens."""
        committed = asyncio.get_running_loop().create_future()
        self._connects = [*self._connects, self._clock.now_ms()][-QUOTA:]
        await self._inbox.give(Connecting(self._connects, committed))
        await committed

    # The stream's hooks may not wait.

    def _connected(self) -> None:
        self.made_ms = self._clock.now_ms()
        self._put(CONNECTED, self.made_ms.to_bytes(8))
        self._summary.connects += 1
        self.trouble = ""
        self.made.set()

    def _put(self, kind: int, data: bytes) -> None:
        self._inbox.put(kind, data)
        self._summary.spilled = self._summary.spilled or self._inbox.backlog.spilled > 0
