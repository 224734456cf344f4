"""The engine in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamapp import App, Backoff, ErrorPolicy
from streamapp.engine.engine import Engine
from tests.brokers import BrokerUnderTest
from tests.polling import eventually

__all__ = ["make_app", "run_once", "running"]


def make_app(kafka: BrokerUnderTest, state: Path, **options: Any) -> App:
    """Return an application on the broker under test, under the test's prefix, quick to fail."""
    engine = {
        "session_timeout": 6.0,
        "heartbeat_interval": 0.5,
        "replication": 1,
        "idle_timeout": 600.0,
        "backoff": (0.01, 0.1),
        "errors": ErrorPolicy(attempts=3, backoff=Backoff(0.01, 0.1)),
        **options.pop("engine", {}),
    }
    return App(
        f"{kafka.prefix}app",
        broker=f"kafka://{kafka.bootstrap}",
        state_dir=state,
        autodiscover=False,
        web_enabled=False,
        topic_partitions=options.pop("topic_partitions", 2),
        engine=engine,
        **options,
    )


@asynccontextmanager
async def running(app: App, *, once: bool = False) -> AsyncIterator[Engine]:
    """Run the engine of an application for as long as the context is open."""
    app.finalize()
    engine = Engine(app, once=once)
    app.engine = engine
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


async def run_once(app: App) -> Engine:
    """Process what is there.

    Raises:
        BaseException: what the engine could not mend.
    """
    async with running(app, once=True) as engine:
        await eventually(lambda: engine.finished.is_set() or app.failure is not None)
        if app.failure is not None:
            raise app.failure
    return engine
