"""Error policies at work on a broker: what a poison record costs, and what the worker does then."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from streamapp import Batches, Budget, ErrorPolicy, OnError
from streamapp.errors import AgentFailed
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, run_once, running
from tests.engine.workers import read_all, read_table
from tests.polling import eventually


async def publish(kafka: BrokerUnderTest, values: list[bytes], partition: int = 0) -> None:
    """Publish values to the topic `in`."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50) as producer:
        for value in values:
            await producer.send(kafka.topic("in"), value, partition=partition)
        await producer.flush()


def counting(kafka: BrokerUnderTest, state: Path, errors: Any = None, **options: Any) -> Any:
    """An application that counts and echoes numbers, and cannot bear what is below zero."""
    app = make_app(kafka, state, **options)
    numbers = app.topic(kafka.topic("in"), value_type=int)
    echoed = app.topic(kafka.topic("out"), value_type=int)
    totals = app.BatchTable("totals", default=int, key_type=str)

    @app.batch_agent(numbers, errors=errors, within=0.5)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for number in batch:
                totals["all"] += 1
                await echoed.send(value=number)
                if number < 0:
                    raise ValueError(f"no {number}")

    return app


async def values_of(kafka: BrokerUnderTest, topic: str) -> list[int]:
    return [int(record.value) for record in await read_all(kafka.bootstrap, kafka.topic(topic))]


async def says(kafka: BrokerUnderTest, values: list[int]) -> bool:
    return sorted(await values_of(kafka, "out")) == values


async def test_one_poison_record_in_ten_thousand_costs_one_dead_letter(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = counting(kafka, tmp_path)
    numbers = [-1 if n == 7_000 else n for n in range(10_000)]
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, [b"%d" % number for number in numbers])
    engine = await run_once(app)
    assert app.failure is None

    assert await values_of(kafka, "out") == [n for n in numbers if n >= 0]
    table = await read_table(kafka.bootstrap, f"{app.conf.id}-totals-changelog")
    assert table == {b"all": b"9999"}
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    headers = dict(letter.headers)
    assert letter.value == b"-1"
    assert headers["streamapp-offset"] == b"7000"
    assert headers["streamapp-error"] == b"ValueError: no -1"
    assert headers["streamapp-agent"] == b"count"
    assert b"in count" in headers["streamapp-traceback"]

    ledger = [
        msgspec.json.decode(record.value)
        for record in await read_all(kafka.bootstrap, f"{app.conf.id}-count-ledger")
    ]
    ranges = [(b["from"], b["until"]) for entry in ledger for b in entry["batches"]]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    # What was fetched may have been several batches; the one with the poison became three.
    assert len(ledger) <= 8
    assert sum(entry["dead_letters"] for entry in ledger) == 1
    assert engine.groups == []


async def test_a_bug_ends_the_worker_when_the_budget_is_spent(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = counting(kafka, tmp_path, ErrorPolicy(skips=Budget(3, 600.0)))
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, [b"-%d" % number for number in range(1, 30)])
    with pytest.raises(AgentFailed, match=r"after 3 skips within 600 s: nothing of it"):
        await run_once(app)
    assert await values_of(kafka, "out") == []
    letters = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    assert sorted(letter.value for letter in letters) == [b"-1", b"-2", b"-3"]


async def test_a_task_that_is_stopped_reads_no_further_and_the_worker_goes_on(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = counting(kafka, tmp_path, {ValueError: OnError.STOP})
    await kafka.create_topic("in", partitions=2)
    await publish(kafka, [b"1", b"-1"], partition=0)
    async with running(app) as engine:
        [group] = engine.groups

        def stopped() -> bool:
            runner = group.runners.get(0)
            return runner is not None and runner.stopped is not None

        await eventually(stopped)
        await publish(kafka, [b"2", b"3"], partition=1)
        await eventually(lambda: says(kafka, [2, 3]))
        assert app.failure is None
        assert group.runners[0].quiet
        # Nor does it begin again with the next assignment.
        group.runners[0].start(group.epoch)
        await publish(kafka, [b"4"], partition=1)
        await eventually(lambda: says(kafka, [2, 3, 4]))
    # Nothing of its batch was committed: another worker begins with it.
    app = counting(kafka, tmp_path, {ValueError: OnError.SKIP_RECORD})
    await run_once(app)
    assert sorted(await values_of(kafka, "out")) == [1, 2, 3, 4]


async def test_a_run_to_the_end_does_not_wait_for_a_task_that_is_stopped(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = counting(kafka, tmp_path, {ValueError: OnError.STOP})
    await kafka.create_topic("in", partitions=2)
    await publish(kafka, [b"-1"], partition=0)
    await publish(kafka, [b"2"], partition=1)
    await run_once(app)
    assert await values_of(kafka, "out") == [2]


async def test_a_task_that_restarts_goes_on_from_its_last_checkpoint(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    numbers = app.topic(kafka.topic("in"), value_type=int)
    totals = app.BatchTable("totals", default=int, key_type=str)
    starts: list[int] = []

    @app.batch_agent(numbers, errors={ValueError: OnError.RESTART}, within=0, max_records=1)
    async def fragile(batches: Batches) -> None:
        starts.append(1)
        async for batch in batches:
            for number in batch:
                totals["all"] += number
                if number == 3 and len(starts) < 3:
                    raise ValueError("not yet")

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, [b"1", b"2", b"3", b"4"])
    await run_once(app)
    table = await read_table(kafka.bootstrap, f"{app.conf.id}-totals-changelog")
    assert table == {b"all": b"10"}
    assert len(starts) == 3


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
async def test_poison_under_the_other_guarantees(
    kafka: BrokerUnderTest, tmp_path: Path, guarantee: str
) -> None:
    app = counting(kafka, tmp_path, processing_guarantee=guarantee)
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, [b"1", b"-1", b"2"])
    await run_once(app)
    found = await values_of(kafka, "out")
    assert found == ([1, 2] if guarantee == "at_least_once" else [])
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    assert letter.value == b"-1"


async def test_a_worker_that_stops_among_the_parts_of_a_batch_leaves_the_others_to_the_next(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    alone, released = asyncio.Event(), asyncio.Event()
    tries = itertools.count()

    def declare() -> Any:
        app = make_app(kafka, tmp_path)
        numbers = app.topic(kafka.topic("in"), value_type=int)
        echoed = app.topic(kafka.topic("out"), value_type=int)

        @app.batch_agent(numbers, within=0.5)
        async def echo(batches: Batches) -> None:
            async for batch in batches:
                for number in batch:
                    await echoed.send(value=number)
                    if number == 2 and next(tries) == 0:
                        raise ValueError("not in company")
                    if number == 2:
                        alone.set()
                        await released.wait()

        return app

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, [b"1", b"2", b"3", b"4"])
    app = declare()
    async with running(app) as engine:
        async with asyncio.timeout(60):
            await alone.wait()
        stopping = asyncio.create_task(engine.stop())
        await eventually(lambda: engine.groups[0]._stopped)
        released.set()
        await stopping
    assert sorted(await values_of(kafka, "out")) == [1, 2]
    await run_once(declare())
    assert sorted(await values_of(kafka, "out")) == [1, 2, 3, 4]
    assert await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters") == []
