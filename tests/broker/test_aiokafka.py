"""aiokafka's transactional producer and read-committed consumer against the embedded broker."""

from __future__ import annotations

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
