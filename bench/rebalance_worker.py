"""A worker whose tasks are watched: `python -m bench.rebalance_worker …` prints a line a change.

A line is JSON: the time on the machine's monotonic clock, and the tasks whose partitions are read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path

from streamapp import App, Batches
from streamapp.engine.engine import Engine

__all__ = ["application", "topic_of"]

#: Between two looks, in seconds: what the figures are exact to.
_LOOK = 0.005


def topic_of(name: str) -> str:
    """Return the topic that an application reads."""
    return f"{name}-words"


def application(name: str, bootstrap: str, tasks: int, state: Path) -> App:
    """Return an application of one topology with so many tasks, and state in each."""
    app = App(
        name,
        broker=f"kafka://{bootstrap}",
        state_dir=state,
        topic_partitions=tasks,
        web_enabled=False,
        autodiscover=False,
        engine={"replication": 1, "session_timeout": 10.0},
    )
    words = app.topic(topic_of(name), value_type=str)
    counts = app.BatchTable("counts", default=int, key_type=str)

    @app.batch_agent(words, within=0.1)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    return app


async def work(name: str, bootstrap: str, tasks: int, state: Path) -> None:
    """Run the worker until it is told to stop."""
    app = application(name, bootstrap, tasks, state)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    app.finalize()
    engine = app.engine = Engine(app)
    await engine.start()
    [group] = engine.groups
    before: tuple[int, list[int]] | None = None
    stop: asyncio.Task[None] | None = None
    while stop is None or not stop.done():
        tasks_open = sorted(p for p, runner in group.runners.items() if runner.position_known)
        # The epoch shows a rebalance that closes and opens everything between two looks.
        if (group.epoch, tasks_open) != before:
            before = (group.epoch, tasks_open)
            print(json.dumps([time.monotonic(), tasks_open]), flush=True)
        if stopping.is_set() and stop is None:
            stop = asyncio.create_task(engine.stop())
        await asyncio.sleep(_LOOK)
    await stop
    if app.failure is not None:
        raise app.failure


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(work(options.name, options.bootstrap, options.tasks, options.state))
