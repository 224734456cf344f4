"""Standbys: what they follow, what taking over costs, and what they survive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from streamapp.engine.engine import Engine
from streamapp.engine.group import Group
from streamapp.engine.restore import Restore
from streamapp.engine.standby import Standby
from tests.brokers import BrokerUnderTest
from tests.engine.jobs import Event, Jobs, build
from tests.engine.oracle import check_outputs, check_state, check_stores, counted, make_events, sent
from tests.engine.running import running
from tests.engine.workers import Cluster, produce, read_all
from tests.polling import eventually

TASKS = {0, 1, 2, 3}


def worker(kafka: BrokerUnderTest, directory: Path, **engine: Any) -> Jobs:
    """One more worker of the counting application, with a state directory of its own."""
    engine = {"standby_replicas": 1, **engine}
    return build(kafka.prefix, kafka.bootstrap, "exactly_once", str(directory), **engine)


def counting(engine: Engine) -> Group:
    """The group of the counting topology."""
    [group] = [group for group in engine.groups if group.topology.name == "count"]
    return group


def at_work(group: Group) -> set[int]:
    return {partition for partition, runner in group.runners.items() if runner.position_known}


def caught_up(group: Group) -> bool:
    """Whether all that a worker follows is at its end."""
    lags = group.standby.lags
    return lags.keys() == group.standby.tasks and not any(
        lag for task in lags.values() for lag in task.values()
    )


class Load:
    """Events that go in, and the wait until each has come out."""

    def __init__(self, kafka: BrokerUnderTest) -> None:
        self.kafka = kafka
        self.events: list[Event] = []

    async def more(self, count: int) -> None:
        """Publish some, and wait until all are counted."""
        await self.publish(count)
        await eventually(self._all_out)

    async def publish(self, count: int) -> None:
        more = make_events(count, seed=len(self.events), first=len(self.events))
        self.events += more
        await produce(self.kafka, more)

    async def _all_out(self) -> bool:
        return len(await sent(self.kafka)) >= len(self.events)

    async def _all_through(self) -> bool:
        return await counted(self.kafka) >= len(self.events)

    async def exact(self) -> None:
        """Each event is counted once, here and behind the key_by, which may take a moment more."""
        await eventually(self._all_through)
        await check_outputs(self.kafka, self.events)
        await check_state(self.kafka, self.events)


@pytest.fixture
async def load(kafka: BrokerUnderTest) -> Load:
    await kafka.create_topic("in", partitions=4)
    return Load(kafka)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Engines that are entered here are stopped at the end of the test."""
    async with AsyncExitStack() as stack:
        yield stack


async def test_a_caught_up_standby_takes_over_and_restores_nothing(
    kafka: BrokerUnderTest, load: Load, stack: AsyncExitStack, tmp_path: Path
) -> None:
    first = running(worker(kafka, tmp_path / "1").app)
    async with first as engine:
        one = counting(engine)
        await eventually(lambda: at_work(one) == TASKS)
        other = counting(
            await stack.enter_async_context(running(worker(kafka, tmp_path / "2").app))
        )
        await eventually(lambda: len(at_work(one)) == len(at_work(other)) == 2)
        await load.more(300)
        assert other.standby.tasks == at_work(one)
        assert one.standby.tasks == at_work(other)
        theirs = set(other.standby.tasks)
        await eventually(lambda: caught_up(other))
        stores = {task: other.stores.opened(task) for task in theirs}

    await eventually(lambda: at_work(other) == TASKS)
    assert {task: other.runners[task].restored for task in theirs} == dict.fromkeys(theirs, 0)
    for task, store in stores.items():
        taken = other.runners[task].task
        assert taken is not None
        assert taken.store is store
    await load.more(300)
    await load.exact()


async def test_a_worker_that_is_killed_is_replaced_at_the_cost_of_the_lag(
    kafka: BrokerUnderTest,
    load: Load,
    stack: AsyncExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changelogs = {
        table: await kafka.create_topic(
            f"app-{table}-changelog",
            partitions=4,
            cleanup_policy="compact",
            # Its records are counted in the end.
            min_compaction_lag_ms=3_600_000,
        )
        for table in (f"{kafka.prefix}totals", f"{kafka.prefix}counts")
    }
    reached: dict[int, dict[str, int]] = {}
    run = Restore.run

    async def watched(restore: Restore) -> Any:
        marker, positions = await run(restore)
        if restore._topology.name == "count":
            reached[restore._partition] = dict(positions)
        return marker, positions

    cluster = Cluster(kafka, "exactly_once", tmp_path / "a", STREAMAPP_TEST_STANDBYS="1")
    (tmp_path / "a").mkdir()
    stack.callback(cluster.stop)
    doomed = cluster.start(name="a")
    other = counting(await stack.enter_async_context(running(worker(kafka, tmp_path / "b").app)))
    await load.more(400)
    await eventually(lambda: len(at_work(other)) == 2 and len(other.standby.tasks) == 2)
    theirs = set(other.standby.tasks)
    await eventually(lambda: caught_up(other))

    began = {task: dict(other.standby._followed[task].positions) for task in theirs}
    before = other.standby.records
    monkeypatch.setattr(Restore, "run", watched)
    publishing = asyncio.create_task(load.publish(3000))
    await eventually(lambda: other.standby.records > before)
    doomed.kill()
    await publishing
    await eventually(lambda: at_work(other) == TASKS)
    restored = sum(other.runners[task].restored for task in theirs)
    followed = other.standby.records - before
    await load.more(100)

    # No changelog record of theirs was applied twice, and none was left out.
    written = 0
    for table, changelog in changelogs.items():
        for record in await read_all(kafka.bootstrap, changelog):
            if (task := record.partition) in theirs:
                written += began[task][table] <= record.offset < reached[task][table]
    assert followed + restored == written
    assert followed > 0
    await load.exact()


async def test_a_task_that_goes_and_comes_back_restores_nothing(
    kafka: BrokerUnderTest, load: Load, stack: AsyncExitStack, tmp_path: Path
) -> None:
    one = counting(await stack.enter_async_context(running(worker(kafka, tmp_path / "1").app)))
    await load.more(300)
    assert at_work(one) == TASKS
    stores = {task: one.stores.opened(task) for task in TASKS}
    async with running(worker(kafka, tmp_path / "2").app) as engine:
        other = counting(engine)
        await eventually(lambda: len(at_work(other)) == 2)
        gone = at_work(other)
        await load.more(300)
        await eventually(lambda: one.standby.tasks == gone and caught_up(one))
        assert one.standby.records > 0
    await eventually(lambda: at_work(one) == TASKS)
    assert {task: one.runners[task].restored for task in gone} == dict.fromkeys(gone, 0)
    assert {task: one.stores.opened(task) for task in TASKS} == stores
    await load.more(100)
    await load.exact()


async def test_of_three_workers_each_task_has_one_and_a_standby_with_another(
    kafka: BrokerUnderTest, load: Load, stack: AsyncExitStack, tmp_path: Path
) -> None:
    groups = [
        counting(
            await stack.enter_async_context(running(worker(kafka, tmp_path / str(number)).app))
        )
        for number in range(3)
    ]

    def spread() -> bool:
        active = Counter(task for group in groups for task in at_work(group))
        standby = Counter(task for group in groups for task in group.standby.tasks)
        once = Counter(TASKS)
        return active == standby == once and all(map(caught_up, groups))

    await eventually(spread)
    await load.more(300)
    await eventually(spread)
    for group in groups:
        assert not at_work(group) & group.standby.tasks
        assert 1 <= len(at_work(group)) <= 2
        assert 1 <= len(group.standby.tasks) <= 2
    await load.exact()


async def test_a_worker_without_state_warms_up_while_the_tasks_go_on_where_they_are(
    kafka: BrokerUnderTest,
    load: Load,
    stack: AsyncExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"standby_replicas": 0, "acceptable_lag": 10}
    one = counting(
        await stack.enter_async_context(running(worker(kafka, tmp_path / "1", **settings).app))
    )
    await load.more(400)
    hold = asyncio.Event()
    go_on = Standby._round

    async def held(*arguments: Any) -> None:
        await hold.wait()
        await go_on(*arguments)

    monkeypatch.setattr(Standby, "_round", held)
    new = worker(kafka, tmp_path / "2", **settings).app
    other = counting(await stack.enter_async_context(running(new)))
    await eventually(lambda: len(other.standby.warming) == 2)
    warming = set(other.standby.warming)
    await load.more(100)
    assert at_work(one) == TASKS
    assert at_work(other) == set()

    hold.set()
    await eventually(lambda: at_work(other) == warming and at_work(one) == TASKS - warming)
    assert all(other.runners[task].restored <= 10 for task in warming)
    assert other.standby.tasks == frozenset()
    assert one.standby.tasks == frozenset()
    await load.more(100)
    await load.exact()


@pytest.mark.parametrize("point", ["restore.written:3", "standby.written:3"])
async def test_killed_at_its_work_a_standby_goes_on_from_what_it_has(
    kafka: BrokerUnderTest, load: Load, tmp_path: Path, point: str
) -> None:
    cluster = Cluster(kafka, "exactly_once", tmp_path, STREAMAPP_TEST_STANDBYS="1")
    try:
        one = cluster.start(name="a", fault=point)
        two = cluster.start(name="b")
        while one.running:
            await load.publish(100)
            await asyncio.sleep(0.1)
        one = cluster.start(name="a")
        await load.more(100)
        two.kill()
        await load.more(100)
        one.kill()
        cluster.finish()
    finally:
        cluster.stop()
    await load.exact()
    check_stores(cluster, load.events)


async def test_killed_between_fence_and_promotion_a_standbys_store_is_good_to_go_on_from(
    kafka: BrokerUnderTest, load: Load, tmp_path: Path
) -> None:
    cluster = Cluster(kafka, "exactly_once", tmp_path, STREAMAPP_TEST_STANDBYS="1")
    try:
        heir = cluster.start(name="a", fault="task.promotion")
        await load.more(200)
        other = cluster.start(name="b")
        await eventually(lambda: "count: standbys" in heir.log.read_text())
        await load.more(200)
        other.kill()
        await load.publish(50)
        assert heir.wait() != 0
        cluster.finish()
    finally:
        cluster.stop()
    await load.exact()
    check_stores(cluster, load.events)
