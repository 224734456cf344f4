"""One connection to the filtered stream, by tweepy: from `filter()` to its end, and why it ended.

tweepy would connect again by itself, at once or never. Here every end is an exception that its
hooks raise, so that a connection is one task with one outcome, and whoever owns it sets the pace.
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp.http_exceptions import LineTooLong
from tweepy.asynchronous import AsyncStreamingClient

from streamapp.receivers.clock import Clock
from streamapp.receivers.tweets.api import Api, BearerToken
from streamapp.receivers.tweets.backlog import BacklogFull

__all__ = ["FIELDS", "End", "Stream"]

FIELDS: Final = {
    "tweet_fields": [
        *("created_at", "lang", "entities", "public_metrics", "author_id"),
        *("edit_history_tweet_ids", "referenced_tweets"),
    ],
    "expansions": ["author_id"],
    "user_fields": ["username", "public_metrics"],
}
"""What to ask for with a tweet; by default X sends id and text."""

_LOOK = 1.0


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended.

    kind: clean, network, http, silent, full, huge, stopped or broken.
    status: with http. detail: for the log.
    """

    kind: str
    status: int = 0
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.status or self.detail}".strip()


class _Ended(Exception):
    def __init__(self, end: End) -> None:
        super().__init__(str(end))
        self.end = end


class _Client(AsyncStreamingClient):  # type: ignore[misc]
    """tweepy's client with its hooks: bytes go to the listener as they are."""

    def __init__(self, token: str, stream: "Stream") -> None:
        super().__init__(token)
        self._stream = stream

    async def on_connect(self) -> None:
        self._stream.connected()

    async def on_data(self, data: bytes) -> None:
        self._stream.heard()
        self._stream.on_line(data)

    async def on_keep_alive(self) -> None:
        self._stream.heard()
        self._stream.on_keep_alive()

    async def on_closed(self, response: object) -> None:
        raise _Ended(End("clean"))

    async def on_connection_error(self) -> None:
        # tweepy calls this where it has caught the error, and tells us nothing about it.
        raise _Ended(End("network", detail=type(sys.exc_info()[1]).__name__)) from None

    async def on_request_error(self, status_code: int) -> None:
        raise _Ended(End("http", status=status_code))

    async def on_exception(self, exception: Exception) -> None:
        raise exception

    async def on_disconnect(self) -> None:
        """Nothing to do: how it ended is known already."""


class Stream:
    """Connects once at a time and says how it ended.

    Args:
        token, api: who we are, and where the API is.
        clock: what tells the time.
        silence: seconds without a byte after which the connection is given up; the server sends
            something every 20.
        on_connect, on_line, on_keep_alive: what to do; they may not block.
        backfill_minutes: to ask for at a connect.
    """

    def __init__(
        self,
        token: BearerToken,
        api: Api,
        clock: Clock,
        *,
        silence: float,
        on_connect: Callable[[], None],
        on_line: Callable[[bytes], None],
        on_keep_alive: Callable[[], None],
        backfill_minutes: int | None = None,
    ) -> None:
        self.on_connect = on_connect
        self.on_line = on_line
        self.on_keep_alive = on_keep_alive
        self._api = api
        self._clock = clock
        self._silence = silence
        self._parameters: dict[str, Any] = {**FIELDS, "backfill_minutes": backfill_minutes}
        self._client = _Client(token.reveal(), self)
        self._heard = 0.0
        self._since: float | None = None

    @property
    def lasted(self) -> float:
        """Seconds since the last attempt was connected; 0 if it never was."""
        return 0.0 if self._since is None else self._clock.monotonic() - self._since

    def connected(self) -> None:
        """The server has let us in."""
        self.heard()
        self._since = self._clock.monotonic()
        self.on_connect()

    def heard(self) -> None:
        """The server has said something just now."""
        self._heard = self._clock.monotonic()

    async def run(self) -> End:
        """Connect, listen until it ends, and tell how. Cancelling disconnects."""
        # tweepy closes its session with every stream, and would make one with a limit of 300 s.
        self._client.session = self._api.session()
        self.heard()
        self._since = None
        task = self._client.filter(**self._parameters)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK)
                if not task.done() and self._clock.monotonic() - self._heard > self._silence:
                    return End("silent", detail=f"for more than {self._silence:g} s")
        finally:
            # A cancelled task of tweepy's ends without an exception: wait for it, not on it.
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not self._client.session.closed:
                await self._client.session.close()
        return _end_of(task)


def _end_of(task: "asyncio.Task[None]") -> End:
    error = None if task.cancelled() else task.exception()
    match error:
        case None:
            return End("broken", detail="tweepy ended without a reason")
        case _Ended():
            return error.end
        case BacklogFull():
            return End("full", detail="the backlog has no room")
        case ValueError() | LineTooLong():
            return End("huge", detail=str(error))
        case _:
            return End("broken", detail=f"{type(error).__name__}")
