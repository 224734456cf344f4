"""The fake X API beside a test: on the real clock, in a thread of its own, for processes to find."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from streamapp.sample_tweets import generate
from tests.x_api.loop import LoopClock
from tests.x_api.server import TOKEN, FakeX

__all__ = ["X", "serving"]


@dataclass(frozen=True, slots=True)
class X:
    """A fake, and the environment that leads to it."""

    fake: FakeX
    environment: dict[str, str]


@contextlib.contextmanager
def serving(directory: Path, count: int = 60, rate: float = 8.0) -> Iterator[X]:
    """Run a fake while the context is open.

    Args:
        directory: for its certificate.
        count: how many tweets there will be, from five seconds after the start on.
        rate: of them a second.
    """
    ready, ended = threading.Event(), threading.Event()
    found: list[X] = []

    async def serve() -> None:
        start = datetime.now(UTC)
        tweets = list(generate(count, start=start + timedelta(seconds=5), rate=rate))
        async with FakeX(tweets, LoopClock(start.timestamp())) as fake:
            authority = directory / "authority.pem"
            authority.write_bytes(fake.certificate)
            environment = {
                "STREAMAPP_X_HOST": f"127.0.0.1:{fake.port}",
                "STREAMAPP_X_CA": str(authority),
                "STREAMAPP_X_BEARER_TOKEN": TOKEN,
            }
            found.append(X(fake, environment))
            ready.set()
            while not ended.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0]
    finally:
        ended.set()
        thread.join()
