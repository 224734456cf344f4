"""What a topic holds, for a reader of committed records."""

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tests.brokers import admin_client

__all__ = ["read_topic", "values"]


async def read_topic(bootstrap: str, topic: str) -> dict[int, list[ConsumerRecord]]:
    """The committed records of each partition, in order; nothing if there is no such topic.

    Read up to the high watermark, not the last stable offset: what is undecided is waited for.
    """
    async with admin_client(bootstrap) as admin:
        if topic not in await admin.list_topics():
            return {}
        [description] = await admin.describe_topics([topic])
    partitions = [TopicPartition(topic, p["partition"]) for p in description["partitions"]]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
    )
    consumer.assign(partitions)
    await consumer.start()
    records: dict[int, list[ConsumerRecord]] = {}
    try:
        for tp in sorted(partitions):
            records[tp.partition] = []
            end: int | None = None
            while end is None or await consumer.position(tp) < end:
                for fetched in (await consumer.getmany(tp, timeout_ms=50)).values():
                    records[tp.partition] += fetched
                if end is None:
                    end = consumer.highwater(tp)
        return records
    finally:
        await consumer.stop()


async def values(bootstrap: str, topic: str) -> dict[int, list[bytes]]:
    """The committed values of each partition, in order."""
    return {
        partition: [record.value for record in records]
        for partition, records in (await read_topic(bootstrap, topic)).items()
    }
