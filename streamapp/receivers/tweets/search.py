"""Recent search: what was written while nobody was connected, found page by page."""

import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
from tweepy import HTTPException
from tweepy.asynchronous import AsyncClient

from streamapp.receivers.clock import Clock
from streamapp.receivers.tweets.api import Api, BearerToken, refusal, status_of
from streamapp.receivers.tweets.stream import FIELDS

__all__ = ["DAYS", "Search", "Unsearchable"]

logger = logging.getLogger(__name__)

DAYS: Final = 7
"""How far back recent search goes."""

PAGE: Final = 100
QUOTA: Final = 440
QUOTA_SECONDS: Final = 15 * 60.0
"""The API allows 450 requests in a quarter of an hour; we leave some to a restart."""

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 320.0
_ANSWER_TIMEOUT: Final = 60.0


class Unsearchable(Exception):
    """Recent search does not take the query: what it would match stays lost across a gap."""


class Search:
    """Searches patiently: failures and limits are waited out. A context that holds a connection."""

    def __init__(self, token: BearerToken, api: Api, clock: Clock) -> None:
        self._token = token
        self._api = api
        self._clock = clock
        self._client = AsyncClient(token.reveal(), return_type=dict)
        self._asked: deque[float] = deque()

    async def open(self) -> None:
        """Make the connection."""
        self._client.session = self._api.session()

    async def close(self) -> None:
        """Let go of it."""
        if self._client.session is not None:
            await self._client.session.close()

    async def pages(self, query: str, since: int) -> AsyncIterator[dict[str, Any]]:
        """All answers for tweets above the id `since`, the newest first.

        Raises:
            Unsearchable: the query is none for recent search.
            XApiError: the API refuses us.
        """
        token: str | None = None
        while True:
            answer = await self._ask(query, since, token)
            yield answer
            token = answer.get("meta", {}).get("next_token")
            if token is None:
                return

    async def _ask(self, query: str, since: int, token: str | None) -> dict[str, Any]:
        pause = _FIRST_PAUSE
        while True:
            await self._wait_for_quota()
            problem, wait = "", pause
            try:
                answer: dict[str, Any] = await self._client.search_recent_tweets(
                    query,
                    since_id=since,
                    max_results=PAGE,
                    next_token=token,
                    **FIELDS,
                )
                return answer
            except HTTPException as error:
                status = status_of(error)
                if known := refusal(status, self._token, "recent search"):
                    raise known from None
                if status == 400:
                    raise Unsearchable("; ".join(map(str, error.api_messages))) from None
                problem = f"answers {status}"
                if status == 429:
                    wait = self._until_reset(error, pause)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                # A ContentTypeError of aiohttp's shows all headers, with the token: only its name.
                problem = f"fails ({type(error).__name__})"
            logger.warning("Recent search %s: asking again in %.0f s", problem, wait)
            await self._clock.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _wait_for_quota(self) -> None:
        while True:
            now = self._clock.monotonic()
            while self._asked and now - self._asked[0] >= QUOTA_SECONDS:
                self._asked.popleft()
            if len(self._asked) < QUOTA:
                self._asked.append(now)
                return
            await self._clock.sleep(self._asked[0] + QUOTA_SECONDS - now)

    def _until_reset(self, error: HTTPException, pause: float) -> float:
        reset = error.response.headers.get("x-rate-limit-reset", "")
        if not reset.isdecimal():
            return max(60.0, pause)
        return min(max(1.0, int(reset) + 1.0 - self._clock.now_ms() / 1000), QUOTA_SECONDS)
