"""`foreach_batch` on a broker: what a new owner presents, and when it presents nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from streamapp import App, Batch, ErrorPolicy
from streamapp.engine.foreach import INTENT_KEY, Intent
from streamapp.errors import AgentFailed, StoreError, TopicError
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.running import make_app, run_once, running
from tests.engine.test_engine import publish
from tests.engine.workers import read_all
from tests.polling import eventually

#: Ten of them fill a fetch.
WORDS = [str(number).ljust(100_000) for number in range(40)]

Given = list[tuple[str, list[str]]]


def presenting(
    kafka: BrokerUnderTest,
    state: Path,
    given: Given,
    fail: Callable[[], None] = lambda: None,
    max_records: int = 100,
    within: float = 0.2,
    **options: Any,
) -> App:
    """An application whose function remembers what it was given, then fails when it is told to."""
    app = make_app(kafka, state, **options)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)

    @app.foreach_batch(
        source, within=within, max_records=max_records, errors=ErrorPolicy(attempts=1)
    )
    async def keep(batch: Batch) -> None:
        given.append((batch.id, batch.values))
        fail()

    return app


async def publish_words(kafka: BrokerUnderTest, words: list[str]) -> None:
    await publish(kafka, "in", [word.encode() for word in words])


def away() -> None:
    raise ConnectionError("the database is away")


async def one_batch_that_failed(kafka: BrokerUnderTest, state: Path) -> tuple[str, list[str]]:
    """Let a worker present a batch and end before it is committed; return what it has presented."""
    given: Given = []
    await kafka.create_topic("in", partitions=1)
    await publish_words(kafka, WORDS)
    app = presenting(kafka, state, given, away, within=2.0)
    async with running(app):
        await eventually(lambda: app.failure is not None)
    assert isinstance(app.failure, AgentFailed)
    [presented] = given
    return presented


async def test_a_new_owner_presents_the_same_batch_whatever_has_come_since(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    presented = await one_batch_that_failed(kafka, tmp_path / "a")
    await publish_words(kafka, ["x", "y"])

    given: Given = []
    # Its own batches are smaller than the one that comes again, and than what it may buffer.
    await run_once(presenting(kafka, tmp_path / "b", given, max_records=3))

    words = [word for _, values in given for word in values]
    assert given[0] == presented
    assert len(presented[1]) > 20
    assert words == [*WORDS, "x", "y"]
    assert all(len(values) <= 3 for _, values in given[1:])


async def test_what_cannot_be_presented_as_it_was_stops_the_task(
    kafka: BrokerUnderTest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    presented, values = await one_batch_that_failed(kafka, tmp_path / "a")
    async with admin_client(kafka.bootstrap) as admin:
        begin = RecordsToDelete(before_offset=7)
        await admin.delete_records({TopicPartition(kafka.topic("in"), 0): begin})

    given: Given = []
    engine = await run_once(presenting(kafka, tmp_path / "b", given))

    assert not given
    assert not engine.groups
    assert f"keep/0 has to present {presented} again as it was" in caplog.text
    assert f"7 of its {len(values)} records are gone" in caplog.text


async def test_a_fenced_worker_presents_nothing(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    given: Given = []
    await kafka.create_topic("in", partitions=1)
    app = presenting(kafka, tmp_path, given)
    async with running(app) as engine:
        [group] = engine.groups
        await eventually(lambda: any(runner.position_known for runner in group.runners.values()))
        [runner] = group.runners.values()
        before = len(given), runner.checkpoints
        async with AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap, transactional_id=f"{app.conf.id}-keep-0"
        ):
            opens: list[int] = []
            announce = runner.task.announce  # type: ignore[union-attr]

            async def announced(intent: Intent) -> None:
                try:
                    await announce(intent)  # type: ignore[misc]
                except Exception:
                    opens.append(len(given))
                    raise

            runner.task.announce = announced  # type: ignore[union-attr]
            await publish_words(kafka, WORDS)
            await eventually(lambda: runner.checkpoints > before[1])

    assert opens == [0]
    assert [word for _, values in given for word in values] == WORDS


async def test_a_source_that_ends_before_what_was_presented_is_refused(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = presenting(kafka, tmp_path, [])
    await kafka.create_topic("in", partitions=1)
    intents = await kafka.create_topic("app-keep-intents", partitions=1, cleanup_policy="compact")
    intent = Intent(
        sequence=1,
        topic=kafka.topic("in"),
        partition=0,
        from_offset=0,
        until_offset=50,
        records=50,
    )
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(intents, intent.encode(), key=INTENT_KEY)

    with pytest.raises(StoreError, match=r"ends at 0, and keep/0 has presented .*:0:0-50"):
        await run_once(app)


async def test_intents_that_would_be_deleted_by_age_are_refused(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await kafka.create_topic("app-keep-intents", partitions=1, cleanup_policy="delete")

    with pytest.raises(TopicError, match=r"keep-intents has cleanup\.policy=delete"):
        await run_once(presenting(kafka, tmp_path, []))


async def test_a_large_batch_of_which_nearly_nothing_can_be_read_is_presented(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    given: list[list[int]] = []
    await kafka.create_topic("in", partitions=1)
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=int, partitions=1)
    count = 180_000  # their offsets are more than a megabyte

    @app.foreach_batch(source, within=60.0, max_records=count)
    async def keep(batch: Batch) -> None:
        given.append(batch.values)

    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for _ in range(count - 1):
            await producer.send(kafka.topic("in"), b"?", partition=0)
        await producer.send_and_wait(kafka.topic("in"), b"7", partition=0)
    async with running(app):
        await eventually(lambda: bool(given) or app.failure is not None)

    assert given == [[7]]


async def test_at_least_once_announces_nothing(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    given: Given = []
    await kafka.create_topic("in", partitions=1)
    await publish_words(kafka, WORDS)
    app = presenting(kafka, tmp_path, given, processing_guarantee="at_least_once")

    await run_once(app)

    assert [word for _, values in given for word in values] == WORDS
    assert await read_all(kafka.bootstrap, f"{app.conf.id}-keep-intents") == []
