"""What an agent starts or remembers in one attempt at a batch has no say in another one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streamapp import App, Backoff, Batches, Count, ErrorPolicy, OnError
from streamapp.errors import BatchEnded
from streamapp.state.table import BatchTable
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, run_once
from tests.engine.tasks import TaskOnTrial, an_app
from tests.engine.workers import read_all, read_table


class Fails(Exception):
    """The agent's own error."""


USES = [
    "add",
    "read",
    "delete",
    "look",
    "scan",
    "window",
    "window at",
    "window each",
    "window read",
    "key_by",
    "key_by at",
    "plain key_by",
    "send",
    "send_soon",
]


class Trial:
    """A task whose agent leaves a child behind that uses what it has when it is told to."""

    def __init__(self, directory: Path, use: str) -> None:
        app = an_app()
        events, out = app.topic("events"), app.topic("out")
        totals = app.BatchTable("totals", default=int, key_type=str)
        windows = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(1)
        by_key = app.key_by("counted", aggregate=Count(), key_type=str)
        sent_on = app.key_by("sent-on", key_type=str)
        self.children: list[asyncio.Task[None]] = []
        self.go_on = asyncio.Event()

        async def child() -> None:
            await self.go_on.wait()
            match use:
                case "add":
                    totals["late"] += 1
                case "read":
                    totals.get("late")
                case "delete":
                    del totals["a"]
                case "look":
                    assert "late" not in totals
                case "scan":
                    list(totals)
                case "window":
                    windows["late"] += 1
                case "window at":
                    windows.add("late", at=0)
                case "window each":
                    windows.add_each(["late"])
                case "window read":
                    windows.windows()
                case "key_by":
                    by_key.add("late")
                case "key_by at":
                    by_key.add("late", at=0)
                case "plain key_by":
                    sent_on.add("late", at=0)
                case "send":
                    await out.send(value="late")
                case "send_soon":
                    out.send_soon(value="late")

        @app.batch_agent(events)
        async def work(batches: Batches) -> None:
            async for batch in batches:
                for value in batch:
                    if value in ("leave", "fail"):
                        self.children.append(asyncio.create_task(child()))
                    if value == "fail":
                        raise Fails
                    totals[value] += 1
                    windows[value] += 1
                    by_key.add(value)
                    await out.send(value=value)
                    await asyncio.sleep(0.001)  # the child goes on here, if it may

        for upstream in (by_key, sent_on):

            @app.batch_agent(upstream, name=f"read-{upstream.name}")
            async def read(batches: Batches) -> None:
                async for _ in batches:
                    pass

        self.on = TaskOnTrial(app, directory, topology="work")

    async def settled(self) -> list[BaseException | None]:
        """Let the children go on to their end, and return what they raised."""
        self.go_on.set()
        await asyncio.wait(self.children)
        return [child.exception() for child in self.children]


@pytest.fixture
async def on_trial(tmp_path: Path) -> AsyncIterator[Callable[[str], Trial]]:
    """Make tasks that are closed at the end."""
    made: list[Trial] = []

    def make(use: str) -> Trial:
        made.append(Trial(tmp_path / str(len(made)), use))
        return made[-1]

    yield make
    for trial in made:
        await trial.on.close()


Make = Callable[[str], Trial]


@pytest.mark.parametrize("use", USES)
async def test_what_is_left_of_an_attempt_that_failed_is_refused_in_the_next(
    on_trial: Make, use: str
) -> None:
    trial, smooth = on_trial(use), on_trial(use)
    with pytest.raises(Fails):
        await trial.on.process(["a", "fail"])
    await trial.on.task.abort()
    trial.go_on.set()
    found, expected = await trial.on.step(["a", "b"]), await smooth.on.step(["a", "b"])
    [error] = await trial.settled()
    assert isinstance(error, BatchEnded)
    assert found.outputs == expected.outputs
    assert found.writes == expected.writes
    assert found.entry.late == 0


@pytest.mark.parametrize("use", USES)
async def test_what_outlives_a_batch_that_succeeded_is_refused_in_the_next(
    on_trial: Make, use: str
) -> None:
    trial, smooth = on_trial(use), on_trial(use)
    await trial.on.step(["leave"])
    trial.go_on.set()
    await smooth.on.step(["leave"])
    found, expected = await trial.on.step(["a", "b"]), await smooth.on.step(["a", "b"])
    [error] = await trial.settled()
    assert isinstance(error, BatchEnded)
    assert "outlived its batch" in str(error)
    assert found.outputs == expected.outputs
    assert found.writes == expected.writes
    await smooth.settled()


async def test_it_is_refused_while_its_batch_is_committed(on_trial: Make) -> None:
    """Or a write would be in the cache, and neither in the changelog nor in the store."""
    trial = on_trial("add")
    checkpoint = await trial.on.process(["leave"])
    [error] = await trial.settled()
    assert isinstance(error, BatchEnded)
    trial.on.commit(checkpoint)
    assert "late" not in trial.on.task.tables["totals"]  # type: ignore[operator]


async def test_it_is_welcome_within_its_batch(on_trial: Make) -> None:
    trial = on_trial("add")
    trial.go_on.set()
    await trial.on.step(["leave", "a"])
    assert trial.on.task.tables["totals"]["late"] == 1
    assert await trial.settled() == [None]


async def test_an_agent_that_writes_between_its_batches_is_started_anew_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = an_app()
    events, totals = app.topic("events"), app.BatchTable("totals", default=int, key_type=str)
    gave_up = asyncio.Event()

    @app.batch_agent(events)
    async def impatient(batches: Batches) -> None:
        while True:
            try:
                async with asyncio.timeout(0.01):
                    batch = await anext(batches)
            except TimeoutError:
                gave_up.set()
                totals["times given up"] += 1
            else:
                totals["batches"] += 1
                del batch

    trial = TaskOnTrial(app, tmp_path)
    await trial.step(["a"])
    await gave_up.wait()
    with caplog.at_level(logging.WARNING):
        await trial.step(["a"])
    assert dict(trial.task.tables["totals"].items()) == {"batches": 2}  # type: ignore[union-attr]
    assert "impatient: BatchEnded" in caplog.text
    assert "between its batches" in caplog.text
    await trial.close()


# ---------------------------------------------------------------------- what an agent remembers


def remembering(app: App, visits: Any) -> BatchTable:
    """Two agents of a topology: the first spares itself reads of its table, the other one fails."""
    first = app.BatchTable("first", default=int, key_type=str)
    last = app.BatchTable("last", key_type=str, value_type=int)

    @app.batch_agent(visits, topology="visits", within=0.5)
    async def a_first(batches: Batches) -> None:
        seen = set()
        async for batch in batches:
            for visit in batch:
                if visit not in seen:
                    seen.add(visit)
                    first[visit] += 1

    @app.batch_agent(visits, topology="visits", within=0.5)
    async def b_fails(batches: Batches) -> None:
        async for batch in batches:
            for visit in batch:
                if visit == "bad":
                    raise ValueError("bad")
                last[visit] = object() if visit == "not to be stored" else 1

    return first


@pytest.mark.parametrize("poison", ["bad", "not to be stored"])
async def test_no_agent_remembers_a_batch_that_was_taken_back(poison: str) -> None:
    """Neither one that had done with it, nor any when the error came behind the agents."""
    app = an_app()
    visits = app.topic("visits", value_type=str, partitions=1)
    first = remembering(app, visits)
    async with app.test(partitions=1, error_policies=True) as t:
        async with t.batch():
            for visit in ("ada", "bob", poison, "eve"):
                await t.send(visits, visit)
        assert dict(first.items()) == {"ada": 1, "bob": 1, "eve": 1}
        assert [letter.offset for letter in t.dead_letters] == [2]


# ---------------------------------------------------------------------- on a broker


async def publish(kafka: BrokerUnderTest, values: list[str]) -> None:
    """Publish values to one partition of the topic `in`."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50) as producer:
        for value in values:
            await producer.send(kafka.topic("in"), value.encode(), partition=0)
        await producer.flush()


@pytest.mark.parametrize("error", [ValueError, ConnectionError])
async def test_each_record_takes_effect_once_though_one_in_a_gather_fails(
    kafka: BrokerUnderTest, tmp_path: Path, error: type[Exception]
) -> None:
    await kafka.create_topic("in", partitions=1)
    app = make_app(kafka, tmp_path)
    orders = app.topic(kafka.topic("in"), value_type=int)
    out = app.topic(kafka.topic("out"), value_type=int)
    spent = app.BatchTable("spent", default=int, key_type=str)
    retry = ErrorPolicy({ConnectionError: OnError.RETRY}, backoff=Backoff(0.05, 0.05))
    attempts = 0

    async def take_one(cents: int) -> None:
        nonlocal attempts
        await asyncio.sleep(0.002 * cents)
        if cents == 1:
            attempts += 1
            if error is ValueError or attempts == 1:
                raise error("no")
        spent["ada"] += cents
        await out.send(value=cents)

    @app.batch_agent(orders, errors=retry, within=0.5, uses=[spent, out])
    async def take(batches: Batches) -> None:
        async for batch in batches:
            await asyncio.gather(*(take_one(cents) for cents in batch))

    await publish(kafka, ["1", "2", "3", "4"])
    await run_once(app)
    expected = [2, 3, 4] if error is ValueError else [1, 2, 3, 4]
    echoed = [int(r.value) for r in await read_all(kafka.bootstrap, kafka.topic("out"))]
    assert sorted(echoed) == expected
    changelog = next(t for t in app.topologies() if t.name == "take").changelog("spent")
    assert await read_table(kafka.bootstrap, changelog) == {b"ada": str(sum(expected)).encode()}


async def test_on_a_broker_no_agent_remembers_a_batch_that_was_taken_back(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    app = make_app(kafka, tmp_path)
    remembering(app, app.topic(kafka.topic("in"), value_type=str))
    await publish(kafka, ["ada", "bob", "bad", "eve"])
    await run_once(app)
    [topology] = app.topologies()
    found = await read_table(kafka.bootstrap, topology.changelog("first"))
    assert found == {b"ada": b"1", b"bob": b"1", b"eve": b"1"}
