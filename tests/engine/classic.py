"""Faust's own code beside a batch agent: `faust -A tests.engine.classic worker`."""

from __future__ import annotations

import os
from typing import Any

import streamapp as faust
from streamapp import Batches

app = faust.App(
    os.environ.get("STREAMAPP_TEST_PREFIX", "classic"),
    broker=f"kafka://{os.environ.get('STREAMAPP_TEST_BOOTSTRAP', '127.0.0.1:1')}",
    state_dir=os.environ.get("STREAMAPP_TEST_STATE"),
    autodiscover=False,
    web_enabled=False,
    topic_partitions=1,
    topic_replication_factor=1,
    engine={"replication": 1},
)


class Greeting(faust.Record):
    """As in Faust's hello world."""

    to_name: str


greetings = app.topic(f"{app.conf.id}-greetings", value_type=Greeting, partitions=1)
greeted = app.topic(f"{app.conf.id}-greeted", value_type=str, partitions=1)
shouted = app.topic(f"{app.conf.id}-shouted", value_type=str, partitions=1)
counts = app.Table(f"{app.conf.id}-counts", default=int, partitions=1)


@app.agent(greetings)
async def greet(stream: Any) -> None:
    """One event at a time, as in Faust."""
    async for greeting in stream:
        counts[greeting.to_name] += 1
        await greeted.send(value=f"hello {greeting.to_name} {counts[greeting.to_name]}")


@app.batch_agent(greeted, within=0, sink=shouted)
async def shout(batches: Batches) -> Any:
    """Take what Faust's agent has sent."""
    async for batch in batches:
        for line in batch:
            yield line.upper()
