"""The engine on a broker: topologies side by side, bad records, and what a user is told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streamapp import App, Batches, Count
from streamapp.broker import Broker
from streamapp.errors import ConfigurationError, StreamappError, TopicError
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, run_once, running
from tests.engine.workers import read_all, read_table
from tests.polling import eventually


class Order(msgspec.Struct):
    """A typed value."""

    item: str
    amount: int


async def publish(
    kafka: BrokerUnderTest, topic: str, values: list[bytes], partition: int = 0
) -> None:
    """Publish values as they are."""
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, max_request_size=8 << 20, enable_idempotence=True
    ) as producer:
        for value in values:
            await producer.send_and_wait(kafka.topic(topic), value, partition=partition)


async def committed(kafka: BrokerUnderTest, group: str, topic: str) -> int | None:
    """Return what a group has committed of the first partition of a topic."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group) as consumer:
        found: int | None = await consumer.committed(TopicPartition(kafka.topic(topic), 0))
        return found


async def test_two_topologies_on_one_topic_do_not_share_an_offset(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int)
    held = asyncio.Event()
    blocked = asyncio.Event()

    @app.batch_agent(source, within=0)
    async def slow(batches: Batches) -> None:
        async for batch in batches:
            assert len(batch) > 0
            blocked.set()
            await held.wait()

    @app.batch_agent(source, within=0)
    async def quick(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"])
    async with running(app):
        await blocked.wait()

        async def quick_is_done() -> bool:
            return await committed(kafka, f"{app.conf.id}-quick", "in") == 3

        await eventually(quick_is_done)
        assert await committed(kafka, f"{app.conf.id}-slow", "in") is None
        held.set()
    table = await read_table(kafka.bootstrap, f"{app.conf.id}-counts-changelog")
    assert table == {b'"a"': b"2", b'"b"': b"1"}


async def test_an_undecodable_record_goes_to_the_dead_letters_and_its_neighbours_count(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    orders = app.topic(kafka.topic("orders"), value_type=Order, partitions=1)
    amounts = app.BatchTable("amounts", default=int, key_type=str)

    @app.batch_agent(orders, within=0)
    async def add_up(batches: Batches) -> None:
        async for batch in batches:
            for order in batch:
                amounts[order.item] += order.amount

    await kafka.create_topic("orders", partitions=1)
    bad = [b"{not json", b'{"item": "tea", "amount": "much"}', b"\xff\xfe"]
    good = b'{"item": "tea", "amount": 2}'
    await publish(kafka, "orders", [good, bad[0], good, bad[1], bad[2], good])
    await run_once(app)

    table = await read_table(kafka.bootstrap, f"{app.conf.id}-amounts-changelog")
    assert table == {b"tea": b"6"}
    letters = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    assert [letter.value for letter in letters] == bad
    headers = [dict(letter.headers) for letter in letters]
    assert [found["streamapp-offset"] for found in headers] == [b"1", b"3", b"4"]
    assert {found["streamapp-topic"] for found in headers} == {kafka.topic("orders").encode()}
    assert b"amount" in headers[1]["streamapp-error"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({"item": object()}, "does not take this value", id="a wrong type"),
        pytest.param("x" * 2_000_000, "max.message.bytes", id="over the limit"),
    ],
)
async def test_a_value_that_cannot_be_sent_is_a_dead_letter_with_advice(
    kafka: BrokerUnderTest, tmp_path: Path, value: Any, message: str
) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    out = app.topic(kafka.topic("out"), partitions=1)

    @app.batch_agent(source, within=0)
    async def echo(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                await out.send(value=word if word != "bad" else value)

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"good", b"bad", b"fine"])
    await run_once(app)
    output = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
    assert output == [b'"good"', b'"fine"']
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    assert letter.value == b"bad"
    assert message in dict(letter.headers)["streamapp-error"].decode()


async def test_a_state_value_over_the_limit_costs_its_record(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    table = app.BatchTable("texts", default=str)

    @app.batch_agent(source, within=0)
    async def keep(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                table[word] = word * (2_000_000 if word == "x" else 2)

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"x", b"b"])
    await run_once(app)
    found = await read_table(kafka.bootstrap, f"{app.conf.id}-texts-changelog")
    assert found == {b'"a"': b'"aa"', b'"b"': b'"bb"'}
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    assert letter.value == b"x"
    assert b"texts-changelog" in dict(letter.headers)["streamapp-error"]


async def test_an_agent_that_raises_is_tried_again_and_leaves_no_trace(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    out = app.topic(kafka.topic("out"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int)
    tries = itertools.count()

    @app.batch_agent(source, within=0)
    async def fragile(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1
                await out.send(value=word)
                if word == "b" and next(tries) == 0:
                    raise RuntimeError("not today")

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"c"])
    await run_once(app)
    assert [r.value for r in await read_all(kafka.bootstrap, kafka.topic("out"))] == [
        b"a",
        b"b",
        b"c",
    ]
    table = await read_table(kafka.bootstrap, f"{app.conf.id}-counts-changelog")
    assert set(table.values()) == {b"1"}


# ---------------------------------------------------------------------- topics


async def test_topics_are_made_as_they_are_needed(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=3)
    by_word = app.key_by("words", aggregate=Count(), partitions=2)
    counts = app.BatchTable("counts", default=int)

    @app.batch_agent(source)
    async def split(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                by_word.add(word)

    @app.batch_agent(by_word)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word, found in batch.items():
                counts[word] += found

    async with running(app) as engine:
        partitions = engine.groups[0].surroundings.partitions
        name = app.conf.id
        assert partitions[kafka.topic("in")] == 3
        assert partitions[f"{name}-split-checkpoint"] == 3
        assert partitions[f"{name}-words-by-key"] == 2
        assert partitions[f"{name}-counts-changelog"] == 2
        assert partitions[f"{name}-count-ledger"] == 2


async def test_a_changelog_with_the_wrong_partition_count_is_refused_with_the_command(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=3)
    counts = app.BatchTable("counts", default=int)

    @app.batch_agent(source)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    await kafka.create_topic(f"{app.conf.id}-counts-changelog", partitions=2)
    with pytest.raises(
        TopicError,
        match=r"counts-changelog has 2 partitions.*have 3.*streamapp reset count",
    ):
        async with running(app):
            pass


async def test_sources_of_one_topology_have_equal_partition_counts(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    left = app.topic(kafka.topic("left"), value_type=str)
    right = app.topic(kafka.topic("right"), value_type=str)
    seen = app.BatchTable("seen", default=int)

    @app.batch_agent(left, topology="both")
    async def take_left(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                seen[word] += 1

    @app.batch_agent(right, topology="both")
    async def take_right(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                seen[word] += 1

    await kafka.create_topic("left", partitions=2)
    await kafka.create_topic("right", partitions=4)
    with pytest.raises(TopicError, match=r"--topic \S*left --partitions 4"):
        async with running(app):
            pass


async def test_without_a_broker_the_worker_says_what_to_do(tmp_path: Path) -> None:
    kafka = BrokerUnderTest("127.0.0.1:1", "embedded", "nobody-")
    app = make_app(kafka, tmp_path)
    app.broker_patience = 0.2

    @app.batch_agent("nothing")
    async def idle(batches: Batches) -> None:
        async for _ in batches:
            pass

    with pytest.raises(
        StreamappError, match=r"no Kafka broker answers at 127\.0\.0\.1:1.*streamapp broker"
    ):
        async with running(app):
            pass


async def test_a_worker_name_is_taken_once_on_a_host(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    def named() -> Any:
        app = make_app(kafka, tmp_path, worker_name="one")
        source = app.topic(kafka.topic("in"), value_type=str, partitions=1)

        @app.batch_agent(source)
        async def idle(batches: Batches) -> None:
            async for _ in batches:
                pass

        return app

    async with running(named()):
        with pytest.raises(ConfigurationError, match="a worker named one is running already"):
            async with running(named()):
                pass


def counting_behind_a_key_by(kafka: BrokerUnderTest, state: Path) -> tuple[App, str]:
    """An application that counts words on their way through a topic, and that topic, which is trimmed often."""
    app = make_app(kafka, state, engine={"trim_interval": 0.05})
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    by_word = app.key_by("words", aggregate=Count(), partitions=1)
    counts = app.BatchTable("counts", default=int)

    @app.batch_agent(source, within=0)
    async def split(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                by_word.add(word)

    @app.batch_agent(by_word, within=0)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word, found in batch.items():
                counts[word] += found

    return app, by_word.name


async def test_a_worker_ends_though_a_client_that_closes_swallows_the_cancellation(
    embedded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As aiokafka's do, while they wait for their own background work."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "closing-")
    app, _ = counting_behind_a_key_by(kafka, tmp_path)
    closing = asyncio.Event()
    close = AIOKafkaAdminClient.close

    async def swallowing(admin: AIOKafkaAdminClient) -> None:
        if asyncio.current_task() is engine._trimming:
            closing.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await close(admin)

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    async with running(app) as engine:
        monkeypatch.setattr(AIOKafkaAdminClient, "close", swallowing)
        await eventually(closing.is_set)
        async with asyncio.timeout(30):
            await engine.stop()


async def test_a_repartition_topic_is_trimmed_behind_what_was_committed(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app, words = counting_behind_a_key_by(kafka, tmp_path)
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"])
    between = TopicPartition(words, 0)
    async with (
        running(app) as engine,
        AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap) as consumer,
    ):

        async def trimmed() -> bool:
            [group] = [g for g in engine.groups if g.topology.name == "count"]
            runner = group.runners.get(0)
            if runner is None or runner.task is None or not runner.checkpoints:
                return False
            begins = await consumer.beginning_offsets([between])
            return bool(begins[between] == runner.task.marker.sources[between.topic] > 0)

        await eventually(trimmed)
    table = await read_table(kafka.bootstrap, f"{app.conf.id}-counts-changelog")
    assert table == {b'"a"': b"2", b'"b"': b"1"}
