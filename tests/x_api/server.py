"""The fake server: filtered stream, rules and recent search of the X API v2, with their limits.

Its tweets happen at the time of their `created_at`: then they are sent to whoever is connected, and
some seconds later search finds them. Rules are understood as far as the tests need it: words,
`#tag`, `lang:`, `has:hashtags`, `sample:`, and a minus before any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import ssl
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final

import trustme
from aiohttp import web

from tests.x_api.faults import Fault
from tests.x_api.loop import LoopClock

__all__ = ["TOKEN", "FakeX"]

TOKEN: Final = "AAAA-not-a-real-token-7f3a"

WINDOW: Final = 15 * 60.0
CONNECTS, SEARCHES = 50, 450
MOST_RULES, RULE_LENGTH, QUERY_LENGTH = 1000, 1024, 1024
SEARCH_DAYS: Final = 7
KEEP_ALIVE = 20.0
HUGE_BYTES = 3 << 20
DEATH = 30.0


class FakeX:
    """The X API on a local port; as a context, it runs while it is open.

    Args:
        tweets: envelopes in the order of their time, as `streamapp.sample_tweets` makes them.
        clock: whose time it is.
        faults: what to do to clients, in the order of their places.
        lag: seconds after which search finds a tweet.
        rules: there from the beginning.
        backfill: whether `backfill_minutes` is allowed.

    Attributes:
        connects: when somebody tried to connect to the stream, in seconds since the epoch.
        searches: when somebody searched.
        happened: how many tweets there were so far.
        done: set when the last tweet has happened.
        struck: how often each kind of fault came about.
    """

    def __init__(
        self,
        tweets: Sequence[dict[str, Any]],
        clock: LoopClock,
        faults: Sequence[Fault] = (),
        *,
        lag: float = 3.0,
        rules: Sequence[str] = (),
        backfill: bool = False,
    ) -> None:
        self.connects: list[float] = []
        self.searches: list[float] = []
        self.happened = 0
        self.done = asyncio.Event()
        self.struck: Counter[str] = Counter()
        self.rules: dict[str, dict[str, str]] = {}
        self.port = 0
        self._tweets = tweets
        self._times = [_created(tweet) for tweet in tweets]
        self._indexed: list[float] = []
        self._clock = clock
        self._faults = deque(faults)
        self._pending: deque[Fault] = deque()
        self._answers: deque[int] = deque()
        self._lag = lag
        self._lag_until = 0.0
        self._index_time = 0.0
        self._backfill = backfill
        self._next_rule = 1000
        self._live: dict[asyncio.Queue[int | None], web.Request] = {}
        self._authority = trustme.CA()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._playing: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        for value in rules:
            self._add_rule({"value": value})

    @property
    def certificate(self) -> bytes:
        """Of the authority that a client has to trust, as PEM."""
        return self._authority.cert_pem.bytes()

    def most_connects(self) -> int:
        """The most connects within any 15 minutes."""
        times = self.connects
        return max((sum(0 <= t - s < WINDOW for t in times) for s in times), default=0)

    def searchable(self) -> set[str]:
        """The ids of all tweets that a search without a rule would find by now or later."""
        return {tweet["data"]["id"] for tweet in self._tweets[: self.happened]}

    def over(self) -> bool:
        """Whether the last tweet was half an hour ago: whoever lacks one now has lost it."""
        return self.done.is_set() and self._clock.now() > self._times[-1] + 1800.0

    async def __aenter__(self) -> FakeX:
        application = web.Application()
        application.add_routes(
            [
                web.get("/2/tweets/search/stream", self._stream),
                web.get("/2/tweets/search/stream/rules", self._list_rules),
                web.post("/2/tweets/search/stream/rules", self._change_rules),
                web.get("/2/tweets/search/recent", self._search),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        self._playing = asyncio.create_task(self._play())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = [task for task in (self._playing, self._reviving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cut_all()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _listen(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("api.twitter.com", "localhost", "127.0.0.1").configure_cert(
            context
        )
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def _play(self) -> None:
        for number, moment in enumerate(self._times):
            await asyncio.sleep(max(0.0, moment - self._clock.now()))
            while self._faults and self._faults[0].at <= number:
                await self._strike(self._faults.popleft())
            lag = self._lag + (60.0 if moment < self._lag_until else 0.0)
            # The index is built in order, more or less.
            self._index_time = max(self._index_time, moment + lag)
            self._indexed.append(self._index_time + number % 7)
            self.happened = number + 1
            for queue in self._live:
                queue.put_nowait(number)
        self.done.set()

    async def _strike(self, fault: Fault) -> None:
        """Do what concerns the whole server; the rest waits for a connection to be done to."""
        if fault.kind == "lag":
            self.struck["lag"] += 1
            self._lag_until = self._clock.now() + 60.0
        elif fault.kind == "death":
            self.struck["death"] += 1
            self._cut_all()
            if self._site is not None:
                await self._site.stop()
                self._site = None
                self._reviving = asyncio.create_task(self._revive())
        else:
            self._pending.append(fault)
            for queue in self._live:
                queue.put_nowait(None)

    async def _revive(self) -> None:
        await asyncio.sleep(DEATH)
        await self._listen()

    def _cut_all(self) -> None:
        for request in list(self._live.values()):
            _cut(request)

    # The filtered stream.

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthorized(request):
            return refused
        now = self._clock.now()
        self.connects.append(now)
        if self._answers:
            return _problem(self._answers.popleft())
        if sum(0 <= now - earlier < WINDOW for earlier in self.connects) > CONNECTS:
            return _problem(429, reset=now + WINDOW)
        if self._connections():
            return _problem(
                429,
                title="ConnectionException",
                connection_issue="TooManyConnections",
                detail="This stream is currently at the maximum allowed connection limit.",
            )
        if not self.rules:
            return _problem(409, title="RulesConflict", detail="There are no rules.")
        minutes = int(request.query.get("backfill_minutes", 0))
        if minutes and not self._backfill:
            return _problem(403, detail="backfill_minutes is not available to this app")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        for number in range(self.happened):
            if self._times[number] > now - 60.0 * minutes:
                queue.put_nowait(number)
        if self._pending:
            queue.put_nowait(None)
        self._live[queue] = request
        try:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._send(request, response, queue)
        finally:
            del self._live[queue]
        return response

    def _connections(self) -> int:
        return sum(_is_open(request) for request in self._live.values())

    async def _send(
        self, request: web.Request, response: web.StreamResponse, queue: asyncio.Queue[int | None]
    ) -> None:
        sent: deque[bytes] = deque(maxlen=5)
        held: list[bytes] = []
        holding = 0
        while _is_open(request):
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    number = await queue.get()
            except TimeoutError:
                await response.write(b"\r\n")
                continue
            while self._pending:
                fault = self._pending.popleft()
                self.struck[fault.kind] += 1
                if fault.kind == "reorder":
                    holding = 4
                elif not await self._disturb(fault, request, response, list(sent)):
                    return
            if number is None or (line := self._line(number)) is None:
                continue
            if holding:
                holding -= 1
                held.append(line)
                if holding:
                    continue
                lines, held = held[::-1], []
            else:
                lines = [line]
            for each in lines:
                await response.write(each + b"\r\n")
            sent.extend(lines)

    async def _disturb(
        self, fault: Fault, request: web.Request, response: web.StreamResponse, sent: list[bytes]
    ) -> bool:
        """Do to a connection what the fault says; whether it lives on."""
        match fault.kind:
            case "reset":
                _cut(request)
            case "end":
                pass
            case "half-line" | "half-line-reset":
                await response.write(b'{"data":{"id":"1234","te')
                if fault.kind == "half-line-reset":
                    _cut(request)
            case "stall":
                while _is_open(request):  # noqa: ASYNC110  (aiohttp tells nobody of the end)
                    await asyncio.sleep(1.0)
            case "401" | "403" | "429" | "503":
                self._answers.extend([int(fault.kind)] * fault.times)
                _cut(request)
            case "malformed":
                await response.write(b'{"data":{"id":"1","text":"broken}\r\n\xff\xfe\x00\r\n[]\r\n')
                return True
            case "duplicate":
                for line in sent:
                    await response.write(line + b"\r\n")
                return True
            case "huge":
                padding = b"x" * HUGE_BYTES
                await response.write(b'{"data":{"id":"1","text":"' + padding + b'"}}\r\n')
                return True
            case "error":
                await response.write(_line({"errors": [{"title": "Over capacity", "detail": "!"}]}))
                return True
            case "title":
                await response.write(_line({"title": "ConnectionException", "detail": "?"}))
                return True
            case "disconnect":
                notice = {"title": "operational-disconnect", "disconnect_type": "UpstreamDown"}
                await response.write(_line({"errors": [notice]}))
            case unknown:
                raise ValueError(f"no such fault: {unknown}")
        return False

    def _line(self, number: int) -> bytes | None:
        envelope = self._tweets[number]
        matching = [
            {"id": rule["id"], **({"tag": rule["tag"]} if "tag" in rule else {})}
            for rule in self.rules.values()
            if _matches(rule["value"], envelope["data"])
        ]
        return _dump({**envelope, "matching_rules": matching}) if matching else None

    # Rules.

    async def _list_rules(self, request: web.Request) -> web.Response:
        if refused := self._unauthorized(request):
            return refused
        answer: dict[str, Any] = {"meta": {"result_count": len(self.rules)}}
        return web.json_response(
            {**answer, "data": list(self.rules.values())} if self.rules else answer
        )

    async def _change_rules(self, request: web.Request) -> web.Response:
        if refused := self._unauthorized(request):
            return refused
        body = await request.json()
        dry = request.query.get("dry_run", "").lower() == "true"
        if "delete" in body:
            ids = [str(rule) for rule in body["delete"]["ids"]]
            gone = [rule for rule in ids if rule in self.rules]
            for rule in () if dry else gone:
                del self.rules[rule]
            summary = {"deleted": len(gone), "not_deleted": len(ids) - len(gone)}
            return web.json_response({"meta": {"summary": summary}})
        wanted = body["add"]
        errors = [error for rule in wanted if (error := self._rule_error(rule["value"]))]
        if len(self.rules) + len(wanted) > MOST_RULES:
            return _problem(422, title="RulesCapExceeded", detail="There are too many rules.")
        added = [] if errors else [self._add_rule(rule, dry=dry) for rule in wanted]
        summary = {"created": len(added), "invalid": len(errors)}
        answer: dict[str, Any] = {"meta": {"summary": summary}}
        if errors:
            answer["errors"] = errors
        if added:
            answer["data"] = added
        return web.json_response(answer, status=400 if errors else 201)

    def _rule_error(self, value: str) -> dict[str, Any] | None:
        if any(rule["value"] == value for rule in self.rules.values()):
            return {"title": "DuplicateRule", "value": value}
        if len(value) > RULE_LENGTH or not value or value.count("(") != value.count(")"):
            return {"title": "UnprocessableEntity", "value": value, "details": ["invalid rule"]}
        return None

    def _add_rule(self, rule: dict[str, str], *, dry: bool = False) -> dict[str, str]:
        self._next_rule += 1
        added = {"id": str(self._next_rule), **rule}
        if not dry:
            self.rules[added["id"]] = added
        return added

    # Recent search.

    async def _search(self, request: web.Request) -> web.Response:
        if refused := self._unauthorized(request):
            return refused
        now = self._clock.now()
        if sum(0 <= now - earlier < WINDOW for earlier in self.searches) >= SEARCHES:
            return _problem(429, reset=self.searches[-SEARCHES] + WINDOW)
        self.searches.append(now)
        query = request.query["query"]
        if len(query) > QUERY_LENGTH or "sample:" in query or "bio:" in query:
            return _problem(400, title="Invalid Request", detail="unsupported operator")
        since = int(request.query.get("since_id", 0))
        oldest = now - timedelta(days=SEARCH_DAYS).total_seconds()
        if since and _time_of(since) < oldest:
            return _problem(400, title="Invalid Request", detail="'since_id' is too old")
        size = int(request.query.get("max_results", 10))
        if not 10 <= size <= 100:
            return _problem(400, title="Invalid Request", detail="max_results")
        below = int(request.query.get("next_token", "0")) or math.inf
        found: list[dict[str, Any]] = []
        for number in reversed(range(len(self._indexed))):
            tweet = self._tweets[number]["data"]
            if int(tweet["id"]) <= since or self._times[number] < oldest:
                break
            if int(tweet["id"]) < below and self._indexed[number] <= now and _matches(query, tweet):
                found.append(self._tweets[number])
            if len(found) > size:
                break
        page = found[:size]
        meta: dict[str, Any] = {"result_count": len(page)}
        answer: dict[str, Any] = {"meta": meta}
        if page:
            answer["data"] = [envelope["data"] for envelope in page]
            users = {u["id"]: u for e in page for u in e.get("includes", {}).get("users", ())}
            answer["includes"] = {"users": list(users.values())}
            meta["newest_id"], meta["oldest_id"] = page[0]["data"]["id"], page[-1]["data"]["id"]
        if len(found) > size:
            meta["next_token"] = page[-1]["data"]["id"]
        return web.json_response(answer)

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Bearer {TOKEN}":
            return None
        return _problem(401)


def _problem(
    status: int,
    *,
    title: str = "Problem",
    detail: str = "",
    reset: float | None = None,
    **more: str,
) -> web.Response:
    headers = {} if reset is None else {"x-rate-limit-reset": str(math.ceil(reset))}
    body = {"title": title, "detail": detail, "status": status, **more}
    return web.json_response(body, status=status, headers=headers)


def _is_open(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _line(value: object) -> bytes:
    return _dump(value) + b"\r\n"


def _created(envelope: dict[str, Any]) -> float:
    return datetime.fromisoformat(envelope["data"]["created_at"]).timestamp()


def _time_of(tweet: int) -> float:
    return ((tweet >> 22) + 1_288_834_974_657) / 1000


def _matches(rule: str, tweet: dict[str, Any]) -> bool:
    tags = {hashtag["tag"] for hashtag in tweet.get("entities", {}).get("hashtags", ())}

    def holds(term: str) -> bool:
        if term.startswith("-"):
            return not holds(term[1:])
        name, colon, value = term.partition(":")
        match name if colon else "":
            case "lang":
                return bool(tweet.get("lang") == value)
            case "has":
                return bool(tags)
            case "sample":
                return int(tweet["id"]) % 100 < int(value)
        return term[1:] in tags if term.startswith("#") else term in tweet["text"]

    return all(holds(term) for term in rule.split())
