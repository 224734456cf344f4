"""The fake keeps the limits that the X API documents, and does what a fault says."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from tweepy.asynchronous import AsyncStreamingClient

from streamapp.sample_tweets import START, generate
from tests.x_api import TOKEN, FakeX, FastLoop, Fault, LoopClock

Result = TypeVar("Result")


def fast(scenario: Callable[[], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        return await scenario()

    with asyncio.Runner(loop_factory=lambda: FastLoop(grace=0.02)) as runner:
        return runner.run(run())


def tweets(count: int, rate: float = 2.0) -> list[dict[str, Any]]:
    return list(generate(count, seed=1, rate=rate))


def clock() -> LoopClock:
    return LoopClock(START.timestamp())


class Api:
    """A bare client: every call gives the status and the JSON."""

    def __init__(self, fake: FakeX, token: str = TOKEN) -> None:
        context = ssl.create_default_context(cadata=fake.certificate.decode())
        self._base = f"https://localhost:{fake.port}/2/tweets/search"
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 23,
        )

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, f"{self._base}{path}", **options) as response:
            return response.status, await response.json()

    async def lines(self) -> list[bytes]:
        """What the stream sends until it ends, one way or the other."""
        found = []
        try:
            async with self.session.get(f"{self._base}/stream") as response:
                if response.status != 200:
                    return [str(response.status).encode()]
                async for line in response.content:
                    found.append(line)
        except aiohttp.ClientError:
            found.append(b"CUT")
        return found

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


def test_its_time_flies_in_order():
    async def scenario() -> list[float]:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def nap(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return round(loop.time() - began)

        return await asyncio.gather(nap(300), nap(5), nap(3600))

    assert fast(scenario) == [300, 5, 3600]


def test_tweets_come_when_they_happen_and_keep_alives_between():
    async def scenario() -> list[bytes]:
        rare = [*generate(3, seed=1, rate=0.01)]
        async with (
            FakeX(rare, clock(), [Fault(2, "end")], rules=["-nothing"]) as fake,
            Api(fake) as api,
        ):
            return await api.lines()

    lines = fast(scenario)
    sent = [json.loads(line) for line in lines if line.strip()]
    assert [tweet["data"]["id"] for tweet in sent] == [
        tweet["data"]["id"] for tweet in generate(2, seed=1, rate=0.01)
    ]
    assert b"\r\n" in lines
    assert all(line.endswith(b"\r\n") for line in lines)


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("reset", b"CUT"),
        ("half-line", b'{"data":{"id":"1234","te'),
        ("half-line-reset", b"CUT"),
        ("disconnect", b"operational-disconnect"),
        ("death", b"CUT"),
        ("429", b"CUT"),
    ],
)
def test_a_stream_ends_as_the_fault_says(kind: str, last: bytes):
    async def scenario() -> list[bytes]:
        async with (
            FakeX(tweets(20), clock(), [Fault(5, kind)], rules=["-nothing"]) as fake,
            Api(fake) as api,
        ):
            return await api.lines()

    assert last in fast(scenario)[-1]


def test_an_answer_is_given_as_often_as_it_was_asked_for():
    async def scenario() -> list[list[bytes]]:
        fault = Fault(1, "503", times=2)
        async with (
            FakeX(tweets(20), clock(), [fault, Fault(9, "end")], rules=["-no"]) as fake,
            Api(fake) as api,
        ):
            return [await api.lines() for _ in range(4)]

    first, *refused, last = fast(scenario)
    assert first[-1] == b"CUT"
    assert refused == [[b"503"], [b"503"]]
    assert len(last) >= 5


def test_one_connection_and_fifty_connects_are_allowed():
    async def scenario() -> tuple[list[bytes], list[list[bytes]], float]:
        ends = [Fault(0, "end") for _ in range(49)]
        async with (
            FakeX(tweets(500), clock(), [Fault(0, "stall"), *ends], rules=["-no"]) as fake,
            Api(fake) as api,
        ):
            first = asyncio.create_task(api.lines())
            await asyncio.sleep(5)
            second = await api.lines()
            first.cancel()
            await asyncio.wait({first})
            await asyncio.sleep(5)
            rest = [await api.lines() for _ in range(49)]
            return second, rest, fake.most_connects()

    second, rest, most = fast(scenario)
    assert second == [b"429"]
    assert b"429" not in [line for lines in rest[:48] for line in lines]
    assert rest[48] == [b"429"]
    assert most == 51


def test_search_lags_and_pages_and_ends_after_seven_days():
    async def scenario() -> None:
        async with FakeX(tweets(250, rate=10.0), clock(), lag=30.0) as fake, Api(fake) as api:
            await fake.done.wait()
            query = {"query": "-nothing", "max_results": "100"}
            _, soon = await api.call("GET", "/recent", params=query)
            assert soon["meta"]["result_count"] < 100
            await asyncio.sleep(60)
            found: list[str] = []
            token: dict[str, str] = {}
            while True:
                status, page = await api.call("GET", "/recent", params={**query, **token})
                assert status == 200
                found += [tweet["id"] for tweet in page["data"]]
                if "next_token" not in page["meta"]:
                    break
                token = {"next_token": page["meta"]["next_token"]}
            assert found == sorted(fake.searchable(), reverse=True)
            middle = {"since_id": found[100]}
            assert (await api.call("GET", "/recent", params={**query, **middle}))[1]["meta"][
                "result_count"
            ] == 100
            status, _ = await api.call("GET", "/recent", params={"query": "sample:10"})
            assert status == 400
            await asyncio.sleep(8 * 86_400)
            status, _ = await api.call("GET", "/recent", params={**query, **middle})
            assert status == 400

    fast(scenario)


def test_search_is_limited():
    async def scenario() -> list[int]:
        async with FakeX([], clock()) as fake, Api(fake) as api:
            query = {"query": "any"}
            return [(await api.call("GET", "/recent", params=query))[0] for _ in range(451)]

    assert fast(scenario) == [200] * 450 + [429]


def test_rules_are_added_listed_and_deleted_within_limits():
    async def scenario() -> None:
        async with FakeX([], clock()) as fake, Api(fake) as api:

            async def change(body: object) -> tuple[int, Any]:
                return await api.call("POST", "/stream/rules", json=body)

            status, added = await change({"add": [{"value": "python lang:en", "tag": "py"}]})
            assert status == 201
            (rule,) = added["data"]
            assert rule["tag"] == "py"
            assert (await api.call("GET", "/stream/rules"))[1]["data"] == [rule]
            assert (await change({"add": [{"value": "python lang:en"}]}))[0] == 400
            assert (await change({"add": [{"value": "x" * 1025}]}))[0] == 400
            many = [{"value": f"rule{number}"} for number in range(1000)]
            assert (await change({"add": many}))[0] == 422
            assert (await change({"add": many[1:]}))[0] == 201
            status, answer = await change({"delete": {"ids": [rule["id"], "7"]}})
            assert answer["meta"]["summary"] == {"deleted": 1, "not_deleted": 1}

    fast(scenario)


def test_nobody_comes_in_without_the_token():
    async def scenario() -> list[int]:
        async with FakeX([], clock()) as fake, Api(fake, token="wrong") as api:
            paths = ("/stream", "/stream/rules", "/recent?query=any")
            return [(await api.call("GET", path))[0] for path in paths]

    assert fast(scenario) == [401, 401, 401]


@pytest.mark.parametrize(("tag", "seen"), [({"tag": "all"}, 10), ({}, 1)])
def test_tweepy_left_alone_ends_at_a_malformed_line_and_at_a_rule_without_tag(
    tag: dict[str, str], seen: int
):
    """What makes a receiver necessary."""

    class Listener(AsyncStreamingClient):  # type: ignore[misc]
        seen = 0

        async def on_tweet(self, tweet: object) -> None:
            self.seen += 1

    async def scenario() -> int:
        fault = Fault(10, "malformed")
        async with FakeX(tweets(50), clock(), [fault], rules=["-nothing"]) as fake:
            fake.rules["1001"] |= tag
            resolver = _Here(fake.port)
            context = ssl.create_default_context(cadata=fake.certificate.decode())
            listener = Listener(TOKEN)
            listener.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, resolver=resolver)
            )
            await asyncio.wait({listener.filter()})
            return listener.seen

    assert fast(scenario) == seen


class _Here(aiohttp.abc.AbstractResolver):
    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[Any]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": self._port,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self) -> None:
        pass
