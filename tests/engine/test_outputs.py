"""How output leaves: in batches that its topic takes, and again after a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from kio.schema.errors import ErrorCode

from streamapp import App, Batches
from streamapp.broker import Broker
from streamapp.engine import producer as producers
from streamapp.engine import provisioning
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, run_once, running
from tests.engine.test_engine import publish
from tests.engine.workers import read_all
from tests.polling import eventually


def echoing(
    kafka: BrokerUnderTest,
    state: Path,
    guarantee: str = "exactly_once",
    partitions: int = 1,
    into: int = 0,
) -> App:
    """An application that sends what it reads."""
    app = make_app(kafka, state, processing_guarantee=guarantee)
    source = app.topic(kafka.topic("in"), value_type=bytes, partitions=partitions)
    out = app.topic(kafka.topic("out"), value_type=bytes, partitions=1)

    @app.batch_agent(source, within=0)
    async def echo(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                await out.send(value=value, partition=into)

    return app


async def output(kafka: BrokerUnderTest) -> list[bytes]:
    return [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_topic_that_takes_small_batches_gets_small_ones(
    kafka: BrokerUnderTest, tmp_path: Path, guarantee: str
) -> None:
    await kafka.create_topic("in", partitions=1)
    await kafka.create_topic("out", partitions=1, max_message_bytes=20_000)
    values = [b"%04d" % number + b"x" * 1_000 for number in range(200)]
    await publish(kafka, "in", values)
    await run_once(echoing(kafka, tmp_path, guarantee))
    assert await output(kafka) == values


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_partition_that_is_not_there_is_the_error_of_its_record(
    embedded: Broker, tmp_path: Path, guarantee: str
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "nowhere-")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    await run_once(echoing(kafka, tmp_path, guarantee, into=7))
    [letter] = await read_all(kafka.bootstrap, "nowhere-app-dead-letters")
    error = dict(letter.headers)["streamapp-error"]
    assert b"partition 7 of nowhere-out, which has 1" in error


def scattering(kafka: BrokerUnderTest, state: Path, guarantee: str) -> App:
    """An application that sends each number to its partition of a topic that nobody declared."""
    app = make_app(kafka, state, processing_guarantee=guarantee, topic_partitions=1)

    @app.batch_agent(app.topic(kafka.topic("in"), value_type=bytes), within=0.5)
    async def scatter(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                late = app.topic(kafka.topic("late"), value_type=bytes)
                await late.send(value=value, partition=int(value))

    return app


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_in_a_topic_that_nobody_declared_it_costs_its_record_too(
    embedded: Broker, tmp_path: Path, guarantee: str
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "late-")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"0", b"7", b"-1", b"0"])
    await run_once(scattering(kafka, tmp_path, guarantee))
    sent = await read_all(kafka.bootstrap, kafka.topic("late"))
    assert [record.value for record in sent] == [b"0", b"0"]
    letters = await read_all(kafka.bootstrap, "late-app-dead-letters")
    assert [letter.value for letter in letters] == [b"7", b"-1"]
    headers = dict(letters[0].headers)
    assert headers["streamapp-agent"] == b"scatter"
    assert b"partition 7 of late-late, which has 1" in headers["streamapp-error"]


async def test_at_most_once_it_costs_the_batch_and_the_worker_goes_on(
    embedded: Broker, tmp_path: Path
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "late-")
    await kafka.create_topic("in", partitions=1)
    async with running(app := scattering(kafka, tmp_path, "at_most_once")):
        await publish(kafka, "in", [b"7"])
        await eventually(lambda: letters_of(kafka, [b"7"]))
        await publish(kafka, "in", [b"0"])
        await eventually(lambda: late_says(kafka, [b"0"]))
        assert app.failure is None


async def test_a_topic_that_nobody_declared_waits_for_a_broker_as_long_as_the_worker_runs(
    embedded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "late-")
    await kafka.create_topic("in", partitions=1)
    app = scattering(kafka, tmp_path, "exactly_once")
    async with running(app):
        failures = [KafkaConnectionError("nobody is there") for _ in range(2)]

        class Away(provisioning.AIOKafkaAdminClient):  # type: ignore[misc]
            async def start(self) -> None:
                if failures:
                    raise failures.pop()
                await super().start()

        app.broker_patience = 0.0
        monkeypatch.setattr(provisioning, "AIOKafkaAdminClient", Away)
        await publish(kafka, "in", [b"0"])
        await eventually(lambda: late_says(kafka, [b"0"]))
        assert failures == []
        assert app.failure is None


async def test_a_partition_that_another_task_has_found_missing_meanwhile_costs_its_record(
    embedded: Broker, tmp_path: Path
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "late-")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"7"])
    app = make_app(kafka, tmp_path, topic_partitions=1)

    @app.batch_agent(app.topic(kafka.topic("in"), value_type=bytes), within=0)
    async def scatter(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                late = app.topic(kafka.topic("late"), value_type=bytes)
                await late.send(value=value, partition=7)
                # As when the other task has made the topic.
                app.engine.groups[0].surroundings.partitions[kafka.topic("late")] = 1

    await run_once(app)
    assert await letters_of(kafka, [b"7"])


async def letters_of(kafka: BrokerUnderTest, values: list[bytes]) -> bool:
    letters = await read_all(kafka.bootstrap, f"{kafka.prefix}app-dead-letters")
    return [letter.value for letter in letters] == values


async def late_says(kafka: BrokerUnderTest, values: list[bytes]) -> bool:
    sent = await read_all(kafka.bootstrap, kafka.topic("late"))
    return [record.value for record in sent] == values


async def test_output_goes_on_after_a_batch_was_refused(embedded: Broker, tmp_path: Path) -> None:
    # The refused batch leaves a gap in the sequence of an idempotent producer: it is good for nothing more.
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "refused-")
    await kafka.create_topic("in", partitions=1)
    async with running(echoing(kafka, tmp_path, "at_least_once")):
        await publish(kafka, "in", [b"one"])
        await eventually(lambda: says(kafka, {b"one"}))
        embedded.faults.refuse_batch("refused-out", 0, ErrorCode.message_too_large)
        await publish(kafka, "in", [b"two", b"three"])
        await eventually(lambda: says(kafka, {b"one", b"two", b"three"}), within=20)


async def says(kafka: BrokerUnderTest, values: set[bytes]) -> bool:
    return set(await output(kafka)) == values


async def test_tasks_share_one_producer_for_what_leaves_at_once(
    embedded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Counted(producers.AIOKafkaProducer):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            if "transactional_id" not in options:
                made.append(self)

    monkeypatch.setattr(producers, "AIOKafkaProducer", Counted)
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "shared-")
    await kafka.create_topic("in", partitions=4)
    for partition in range(4):
        await publish(kafka, "in", [b"%d" % partition], partition)
    async with running(echoing(kafka, tmp_path, "at_least_once", partitions=4)):
        await eventually(lambda: says(kafka, {b"0", b"1", b"2", b"3"}))
    assert len(made) == 1
    assert all(producer._closed for producer in made)
