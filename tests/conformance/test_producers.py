"""What a broker takes from a producer, and what it refuses."""

from __future__ import annotations

import pytest
from aiokafka.errors import MessageSizeTooLargeError, UnknownTopicOrPartitionError

from tests.brokers import BrokerUnderTest
from tests.conformance.clients import producer, read, values
from tests.conformance.wire import (
    MESSAGE_TOO_LARGE,
    NONE,
    OUT_OF_ORDER_SEQUENCE_NUMBER,
    RawProducer,
    wire,
)

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
async def test_an_idempotent_producer_delivers_in_order(
    kafka: BrokerUnderTest, codec: str | None
) -> None:
    topic = await kafka.create_topic("t")
    sent = [b"%d " % number * 20 for number in range(500)]

    async with producer(kafka, enable_idempotence=True, compression_type=codec) as client:
        deliveries = [await client.send(topic, value, partition=0) for value in sent]
        offsets = [(await delivery).offset for delivery in deliveries]

    assert offsets == list(range(500))
    assert await values(kafka, topic) == sent


async def test_a_repeated_batch_is_stored_once(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        await raw.add_partition(topic)

        first = await raw.produce(topic, b"a", b"b", sequence=0)
        again = await raw.produce(topic, b"a", b"b", sequence=0)
        after = await raw.produce(topic, b"c", sequence=2)
        await raw.end(commit=True)

    assert (first, again, after) == (NONE, NONE, NONE)
    assert await values(kafka, topic) == [b"a", b"b", b"c"]


async def test_a_gap_in_the_sequence_is_refused(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        await raw.add_partition(topic)
        await raw.produce(topic, b"a", sequence=0)

        error = await raw.produce(topic, b"c", sequence=2)

        assert error == OUT_OF_ORDER_SEQUENCE_NUMBER
        await raw.end(commit=True)
    assert await values(kafka, topic) == [b"a"]


async def test_a_record_larger_than_the_topic_allows_is_refused(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", max_message_bytes=1000)
    async with producer(kafka) as client:
        with pytest.raises(MessageSizeTooLargeError):
            await client.send_and_wait(topic, b"x" * 2000)
        await client.send_and_wait(topic, b"small")

    assert await values(kafka, topic) == [b"small"]


async def test_a_refused_batch_leaves_its_transaction_open(kafka: BrokerUnderTest) -> None:
    """So that a producer that does not check its deliveries commits a part of them."""
    topic = await kafka.create_topic("t", max_message_bytes=1000)
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        await raw.add_partition(topic)

        assert await raw.produce(topic, b"x" * 2000) == MESSAGE_TOO_LARGE
        assert await raw.produce(topic, b"small") == NONE
        assert await raw.end(commit=True) == NONE

    assert await values(kafka, topic) == [b"small"]


async def test_writing_to_an_unknown_topic_is_an_error(kafka: BrokerUnderTest) -> None:
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()

        error = await raw.add_partition(kafka.topic("nowhere"))

    assert error == UnknownTopicOrPartitionError.errno


async def test_partitions_are_written_independently(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=2)
    async with producer(kafka) as client:
        for partition in (0, 1, 0):
            await client.send_and_wait(topic, b"to %d" % partition, partition=partition)

    assert [r.value for r in await read(kafka, topic, partition=0)] == [b"to 0", b"to 0"]
    assert [r.value for r in await read(kafka, topic, partition=1)] == [b"to 1"]
