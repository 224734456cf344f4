"""Filling the gap before a connect: recent search, rule by rule, until its index has caught up.

Not found: what recent search does not match (`sample:` and `bio:` in a rule), and what is older than
its seven days. Both are logged and counted.
"""

import logging
from typing import Final

from streamapp.receivers.clock import Clock
from streamapp.receivers.tweets.api import Api, BearerToken, XApiUnavailable
from streamapp.receivers.tweets.completeness import Completeness
from streamapp.receivers.tweets.connection import Connection
from streamapp.receivers.tweets.ids import id_at, time_of
from streamapp.receivers.tweets.inbox import Filled, Found, Inbox, Searched
from streamapp.receivers.tweets.lines import envelopes
from streamapp.receivers.tweets.progress import Summary
from streamapp.receivers.tweets.rules import Rule, RuleBook
from streamapp.receivers.tweets.search import DAYS, Search, Unsearchable

__all__ = ["GapFiller"]

logger = logging.getLogger(__name__)

SEARCH_AGAIN: Final = 10.0
INDEX_MARGIN: Final = 10.0
INDEX_PATIENCE: Final = 120.0
"""Seconds after which the index is taken to have whatever was written, when it shows nothing newer."""

_WEEK_MS = DAYS * 86_400_000
_SEARCH_START_MARGIN_MS = 600_000
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 320.0


class GapFiller:
    """Searches for what was written while there was no connection.

    Args:
        token, api: who we are, and where the API is.
        clock: what tells the time.
        connection: what gaps end with.
        completeness: what gaps begin with.
        inbox: where tweets go, and word of every gap that is filled.
        overlap_ms: milliseconds below what is complete from which search begins: delivery is not in
            order.
        summary: where it counts.
    """

    def __init__(
        self,
        token: BearerToken,
        api: Api,
        clock: Clock,
        connection: Connection,
        completeness: Completeness,
        inbox: Inbox,
        overlap_ms: int,
        summary: Summary,
    ) -> None:
        self._token = token
        self._api = api
        self._clock = clock
        self._connection = connection
        self._completeness = completeness
        self._inbox = inbox
        self._overlap_ms = overlap_ms
        self._summary = summary
        self._search = Search(token, api, clock)

    async def fill(self) -> None:
        """Fill the gap before every connect.

        Raises:
            XApiError: the API does not accept us: 401 or 403.
        """
        await self._search.open()
        try:
            while True:
                await self._connection.made.wait()
                self._connection.made.clear()
                await self._fill(self._connection.made_ms)
        finally:
            await self._search.close()

    async def _fill(self, connect_ms: int) -> None:
        """Search until the index has passed the connect, or there is a later one.

        What a search has found is complete, whatever becomes of the connection: where none holds
        for long, or this process does not, the quota of search would be spent on the same tweets.
        """
        start = self._search_start()
        target = id_at(connect_ms + int(INDEX_MARGIN * 1000))
        patience = connect_ms + int(INDEX_PATIENCE * 1000)
        rules = await self._rules()
        passed = False
        while self._connection.made_ms == connect_ms:
            began = self._clock.now_ms()
            complete = time_of(self._completeness.complete)
            since = id_at(max(start, complete - self._overlap_ms))
            tip = 0
            for rule in rules:
                tip = max(tip, await self._search_for(rule, since))
            await self._inbox.give(Searched(began - int(INDEX_PATIENCE * 1000)))
            if self._connection.made_ms != connect_ms:
                return
            # An index that is behind catches up all at once, and not in order: look once more.
            if passed:
                await self._inbox.give(Filled(connect_ms))
                return
            passed = tip >= target or began >= patience
            await self._clock.sleep(SEARCH_AGAIN)

    def _search_start(self) -> int:
        """Milliseconds since the epoch, the overlap below what is complete, or as search allows."""
        complete = time_of(self._completeness.complete)
        oldest = self._clock.now_ms() - _WEEK_MS
        if complete < oldest:
            self._summary.alarms += 1
            logger.error(
                "The gap before this connect is longer than the %d days of recent search: tweets"
                " from %d to %d (ms since the epoch) are lost",
                DAYS,
                complete,
                oldest,
            )
        return max(complete - self._overlap_ms, oldest + _SEARCH_START_MARGIN_MS)

    async def _search_for(self, rule: Rule, since: int) -> int:
        """Publish what search finds for a rule, and return the highest id."""
        matching = {"id": rule.id or "", **({"tag": rule.tag} if rule.tag is not None else {})}
        tip = 0
        try:
            async for answer in self._search.pages(rule.value, since):
                lines = envelopes(answer, matching)
                if lines:
                    tip = max(tip, int(answer["meta"]["newest_id"]))
                    await self._inbox.give(Found(lines))
        except Unsearchable as error:
            if rule.value not in self._summary.unsearchable:
                self._summary.unsearchable.append(rule.value)
                logger.error(
                    "Recent search does not take rule %r (%s): what it selects is lost while"
                    " there is no connection",
                    rule.value,
                    error,
                )
        return tip

    async def _rules(self) -> list[Rule]:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with RuleBook(self._token, self._api) as book:
                    return list(await book.list())
            except XApiUnavailable as error:
                logger.warning("%s: asking again in %.0f s", error, pause)
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
