"""aiokafka clients for the time of a test, and the reading and writing that tests share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from tests.brokers import BrokerUnderTest, admin_client
from tests.polling import eventually

Isolation = Literal["read_committed", "read_uncommitted"]


@contextlib.asynccontextmanager
async def producer(kafka: BrokerUnderTest, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer, which waits for all replicas."""
    client = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, **{"acks": "all", **options})
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@contextlib.asynccontextmanager
async def consumer(kafka: BrokerUnderTest, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A started consumer that reads committed records from the start and commits nothing."""
    defaults = {
        "isolation_level": "read_committed",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 100,
    }
    client = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, **{**defaults, **options})
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def write(
    kafka: BrokerUnderTest, topic: str, values: Iterable[bytes], *, partition: int = 0
) -> list[int]:
    """Write values outside of any transaction; return their offsets."""
    async with producer(kafka) as client:
        deliveries = [await client.send(topic, value, partition=partition) for value in values]
        return [(await delivery).offset for delivery in deliveries]


async def read(
    kafka: BrokerUnderTest,
    topic: str,
    *,
    partition: int = 0,
    isolation: Isolation = "read_committed",
) -> list[ConsumerRecord]:
    """Every record from the start of a partition to where this isolation level ends now."""
    tp = TopicPartition(topic, partition)
    async with consumer(kafka, isolation_level=isolation) as client:
        client.assign([tp])
        await client.seek_to_beginning(tp)
        end = (await client.end_offsets([tp]))[tp]
        records: list[ConsumerRecord] = []
        while await client.position(tp) < end:
            records += (await client.getmany(tp, timeout_ms=100)).get(tp, [])
        return [record for record in records if record.offset < end]


async def values(
    kafka: BrokerUnderTest, topic: str, *, isolation: Isolation = "read_committed"
) -> list[bytes | None]:
    """The values of a topic's first partition, as `read` finds them."""
    return [record.value for record in await read(kafka, topic, isolation=isolation)]


async def end_offset(kafka: BrokerUnderTest, topic: str, isolation: Isolation) -> int:
    """Where the first partition ends for a reader of this isolation level."""
    tp = TopicPartition(topic, 0)
    async with consumer(kafka, isolation_level=isolation) as client:
        return int((await client.end_offsets([tp]))[tp])


async def all_stable(kafka: BrokerUnderTest, topic: str) -> None:
    """Wait until no transaction is open on the first partition."""

    async def ends_meet() -> bool:
        stable = await end_offset(kafka, topic, "read_committed")
        return stable == await end_offset(kafka, topic, "read_uncommitted")

    await eventually(ends_meet)


async def committed_offset(kafka: BrokerUnderTest, group: str, topic: str) -> int | None:
    """The offset that a group has committed for the first partition, or None."""
    tp = TopicPartition(topic, 0)
    async with admin_client(kafka.bootstrap) as admin:
        found = await admin.list_consumer_group_offsets(group, partitions=[tp])
        return None if found[tp].offset < 0 else found[tp].offset
