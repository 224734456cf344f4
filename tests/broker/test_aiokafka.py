"""aiokafka's transactional producer and read-committed consumer against the embedded broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import ProducerFenced
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streamapp.broker import Broker
from tests.broker.wire import Client, create_topic

pytestmark = pytest.mark.broker

WORDS = TopicPartition("words", 0)


@pytest.fixture(autouse=True)
async def words(client: Client) -> None:
    await create_topic(client, "words")


async def test_a_group_reads_what_was_committed_and_nothing_else(broker: Broker) -> None:
    async with (
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id="writer") as producer,
        AIOKafkaConsumer(
            "words",
            bootstrap_servers=broker.bootstrap,
            group_id="readers",
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        ) as consumer,
    ):
        async with producer.transaction():
            await producer.send("words", b"first")
        await producer.begin_transaction()
        await producer.send_and_wait("words", b"regretted")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send("words", b"last")

        values = [(await consumer.getone()).value for _ in range(2)]

    assert values == [b"first", b"last"]


async def test_offsets_are_the_group_s_once_their_transaction_commits(broker: Broker) -> None:
    async with (
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id="writer") as producer,
        AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id="readers") as consumer,
    ):
        consumer.assign([WORDS])
        await producer.begin_transaction()
        await producer.send_offsets_to_transaction({WORDS: OffsetAndMetadata(7, "")}, "readers")
        assert await consumer.committed(WORDS) is None

        await producer.commit_transaction()

        assert await consumer.committed(WORDS) == 7


async def test_a_second_producer_of_a_transactional_id_fences_the_first(broker: Broker) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, transactional_id="writer"
    ) as zombie:
        await zombie.begin_transaction()
        await zombie.send_and_wait("words", b"lost")
        async with (
            AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id="writer") as heir,
            AIOKafkaConsumer(
                bootstrap_servers=broker.bootstrap, isolation_level="read_committed"
            ) as consumer,
        ):
            consumer.assign([WORDS])
            ends = await consumer.end_offsets([WORDS])
            with pytest.raises(ProducerFenced):
                await zombie.send_and_wait("words", b"too late")
            async with heir.transaction():
                await heir.send("words", b"kept")
            await consumer.seek_to_beginning()
            record = await consumer.getone()

    assert ends == {WORDS: 2}  # the record that was lost, and its abort marker
    assert record.value == b"kept"


async def test_killed_again_and_again_the_broker_keeps_each_record_once(tmp_path: Path) -> None:
    broker = Broker(data=tmp_path)
    await broker.start()
    async with Client(broker) as client:
        await create_topic(client, "words")
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, enable_idempotence=True, retry_backoff_ms=10
    ) as producer:
        deliveries = []
        for round_ in range(5):
            for number in range(20):
                deliveries.append(await producer.send("words", b"%d-%d" % (round_, number)))
                if number == 10:
                    await deliveries[-1]  # the broker is killed with the rest on its way
                await asyncio.sleep(0)
            broker.kill()
            broker = Broker(broker.port, tmp_path)
            await broker.start()
        offsets = [(await delivery).offset for delivery in deliveries]

    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        consumer.assign([WORDS])
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets([WORDS])
        records = [await consumer.getone() for _ in offsets]
    await broker.stop()

    assert offsets == list(range(100))
    assert ends == {WORDS: 100}
    expected = [b"%d-%d" % (round_, number) for round_ in range(5) for number in range(20)]
    assert [record.value for record in records] == expected


async def test_an_open_transaction_goes_on_after_a_kill(tmp_path: Path) -> None:
    broker = Broker(data=tmp_path)
    await broker.start()
    async with Client(broker) as client:
        await create_topic(client, "words")
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, transactional_id="writer", retry_backoff_ms=10
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait("words", b"before")
        broker.kill()
        broker = Broker(broker.port, tmp_path)
        await broker.start()
        async with AIOKafkaConsumer(
            bootstrap_servers=broker.bootstrap, isolation_level="read_committed"
        ) as consumer:
            consumer.assign([WORDS])
            assert await consumer.end_offsets([WORDS]) == {WORDS: 0}
            await producer.send_and_wait("words", b"after")
            await producer.commit_transaction()
            await consumer.seek_to_beginning()
            records = [await consumer.getone() for _ in range(2)]
    await broker.stop()

    assert [record.value for record in records] == [b"before", b"after"]
