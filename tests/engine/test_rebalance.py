"""Workers that come and go: tasks move with their state, and the counts stay exact."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from streamapp import App
from streamapp.engine import seams
from streamapp.engine.engine import Engine
from tests.brokers import BrokerUnderTest
from tests.engine.jobs import Jobs, build
from tests.engine.oracle import check_state, counted, make_events, sent
from tests.engine.running import running
from tests.engine.workers import Cluster, produce
from tests.polling import eventually


def worker(kafka: BrokerUnderTest, directory: Path) -> Jobs:
    """One more worker of the counting application, with a state directory of its own."""
    return build(kafka.prefix, kafka.bootstrap, "exactly_once", str(directory))


def tasks(engine: Engine) -> set[int]:
    """The tasks of the counting topology that are at work in an engine."""
    [group] = [group for group in engine.groups if group.topology.name == "count"]
    return {partition for partition, runner in group.runners.items() if runner.position_known}


async def all_sent(kafka: BrokerUnderTest, count: int) -> bool:
    return len(await sent(kafka)) >= count


async def test_tasks_spread_over_workers_and_come_back(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=4)
    events = make_events(500, seed=1)
    await produce(kafka, events)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(worker(kafka, tmp_path / "1").app))
        await eventually(lambda: tasks(first) == {0, 1, 2, 3})
        second = await stack.enter_async_context(running(worker(kafka, tmp_path / "2").app))
        await eventually(lambda: len(tasks(first)) == 2 and len(tasks(second)) == 2)
        more = make_events(500, seed=2, first=len(events))
        events += more
        await produce(kafka, more)
        third = running(worker(kafka, tmp_path / "3").app)
        async with third as engine:
            await eventually(lambda: len(tasks(engine)) == 1)
            more = make_events(500, seed=3, first=len(events))
            events += more
            await produce(kafka, more)
        await eventually(lambda: len(tasks(first)) == 2 and len(tasks(second)) == 2)
        more = make_events(500, seed=4, first=len(events))
        events += more
        await produce(kafka, more)
        await eventually(lambda: all_sent(kafka, len(events)))

        async def all_through() -> bool:
            return await counted(kafka) == len(events)

        await eventually(all_through)

    assert sorted(record["n"] for record in await sent(kafka)) == list(range(len(events)))
    await check_state(kafka, events)


async def test_a_task_that_comes_straight_back_restores_nothing(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=4)
    events = make_events(400, seed=1)
    await produce(kafka, events)
    async with running(worker(kafka, tmp_path / "1").app) as engine:
        await eventually(lambda: all_sent(kafka, len(events)))
        [group] = [group for group in engine.groups if group.topology.name == "count"]
        producers = {p: runner._producer._producer for p, runner in group.runners.items()}
        epoch = group.epoch
        assert group.consumer is not None
        group.consumer._coordinator.request_rejoin()
        await eventually(lambda: group.epoch > epoch and tasks(engine) == {0, 1, 2, 3})
        assert {p: runner._producer._producer for p, runner in group.runners.items()} == producers
        more = make_events(100, seed=2, first=len(events))
        await produce(kafka, more)
        await eventually(lambda: all_sent(kafka, len(events) + len(more)))
    assert sorted(r["n"] for r in await sent(kafka)) == list(range(500))


async def test_a_member_that_the_group_has_dropped_fences_nobody(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka.create_topic("in", partitions=4)
    async with running(worker(kafka, tmp_path / "1").app) as engine:
        await eventually(lambda: tasks(engine) == {0, 1, 2, 3})
        [group] = [group for group in engine.groups if group.topology.name == "count"]
        runner = group.runners[0]
        asked = asyncio.Event()

        async def dropped(consumer: Any, expected: int) -> bool:
            asked.set()
            return False

        opened = []
        monkeypatch.setattr(seams, "heartbeat", dropped)
        monkeypatch.setattr(runner._producer, "open", lambda: opened.append(1))
        await runner.park(5)
        await runner._producer.close()
        runner.start(group.epoch)
        await asked.wait()
        await runner.park(5)
        assert opened == []


async def test_one_name_on_two_hosts_ends_a_worker_with_advice(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=4)

    def named(host: str) -> App:
        app = worker(kafka, tmp_path / host).app
        app.engine_settings = dataclasses.replace(app.engine_settings, worker_name="ada")
        return app

    one, other = named("1"), named("2")
    async with running(one), running(other):
        failed = await eventually(lambda: one.failure or other.failure)
    assert "another worker has the same --name" in str(failed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_finishes_the_batch_and_ends_with_zero(
    kafka: BrokerUnderTest, tmp_path: Path, number: int
) -> None:
    await kafka.create_topic("in", partitions=4)
    events = make_events(600, seed=1)
    cluster = Cluster(kafka, "exactly_once", tmp_path)
    try:
        one = cluster.start(name="a")
        await produce(kafka, events)

        async def begun() -> bool:
            return bool(await sent(kafka))

        await eventually(begun)
        one.signal(number)
        assert one.wait() == 0, one.tail()
        cluster.finish()
    finally:
        cluster.stop()
    assert Counter(record["n"] for record in await sent(kafka)) == Counter(range(600))
