"""A receiver of tweets, the fake X API and a broker in one loop in which time flies."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from streamapp.receivers import receiver as base
from streamapp.receivers.tweets import Api, BearerToken, TweetReceiver, receiver
from tests.receivers.topics import read_topic
from tests.x_api import TOKEN, FakeX, FastLoop

__all__ = ["RULES", "api_of", "fast", "published_ids", "real_time_for_kafka", "running", "until"]

Result = TypeVar("Result")

RULES = ("has:hashtags", "-has:hashtags lang:en", "-has:hashtags -lang:en")
"""Every tweet is selected by one of them."""


def fast(scenario: Callable[[], Awaitable[Result]], factor: float | None = None) -> Result:
    """Run a scenario in a loop whose time flies."""

    async def run() -> Result:
        return await scenario()

    with asyncio.Runner(loop_factory=lambda: FastLoop(factor)) as runner:
        return runner.run(run())


def real_time_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the receiver wait for Kafka by the real clock: Kafka does not know of ours."""
    read_published = receiver.read_published

    def held() -> contextlib.AbstractContextManager[None]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FastLoop)
        return loop.real_time()

    class Patient(base.PositionedPublisher):  # type: ignore[type-arg]
        async def __aenter__(self) -> Any:
            with held():
                return await super().__aenter__()

        async def __aexit__(self, *error: Any) -> None:
            with held():
                await super().__aexit__(*error)

        async def publish(self, *arguments: Any, **options: Any) -> None:
            with held():
                await super().publish(*arguments, **options)

    async def read(*arguments: Any) -> Any:
        with held():
            return await read_published(*arguments)

    monkeypatch.setattr(base, "PositionedPublisher", Patient)
    monkeypatch.setattr(receiver, "read_published", read)


def api_of(fake: FakeX, directory: Path) -> Api:
    """Where the fake is, with its authority in a file."""
    authority = directory / "authority.pem"
    authority.write_bytes(fake.certificate)
    return Api(f"127.0.0.1:{fake.port}", authority)


def token() -> BearerToken:
    return BearerToken(TOKEN, "the test")


@contextlib.asynccontextmanager
async def running(receiver: TweetReceiver) -> AsyncIterator[asyncio.Task[Any]]:
    """The receiver at work; it is stopped at the end, unless it has failed before."""
    task = asyncio.create_task(receiver.run())
    try:
        yield task
        receiver.stop()
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], object], within: float = 7200.0) -> None:
    """Wait for a condition, in the time of the loop."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(1.0)


async def published_ids(bootstrap: str, topic: str) -> Counter[str]:
    """How often each tweet is on the topic, for who reads committed records."""
    loop = asyncio.get_running_loop()
    with loop.real_time() if isinstance(loop, FastLoop) else contextlib.nullcontext():
        records = await read_topic(bootstrap, topic)
    return Counter(record.key.decode() for part in records.values() for record in part)
