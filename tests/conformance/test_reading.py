"""Where reading starts, where it ends, and what is no longer there to be read."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import OffsetOutOfRangeError

from tests.brokers import BrokerUnderTest, admin_client
from tests.conformance.clients import consumer, producer, read, values, write
from tests.conformance.wire import OFFSET_OUT_OF_RANGE, wire
from tests.polling import eventually


async def test_records_come_back_as_they_were_written(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", retention_ms=-1)
    async with producer(kafka) as client:
        await client.send_and_wait(
            topic, b"value", key=b"key", headers=[("a", b"1"), ("a", b"2")], timestamp_ms=1234
        )
        await client.send_and_wait(topic, b"no key")
        await client.send_and_wait(topic, None, key=b"tombstone")

    first, second, third = await read(kafka, topic)

    assert (first.offset, first.key, first.value, first.timestamp) == (0, b"key", b"value", 1234)
    assert first.headers == (("a", b"1"), ("a", b"2"))
    assert (second.offset, second.key, second.value) == (1, None, b"no key")
    assert (third.offset, third.key, third.value) == (2, b"tombstone", None)


async def test_log_append_time_replaces_the_producers_timestamp(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", message_timestamp_type="LogAppendTime")
    async with producer(kafka) as client:
        await client.send_and_wait(topic, b"v", timestamp_ms=1234)

    [record] = await read(kafka, topic)

    assert record.timestamp_type == 1
    assert record.timestamp > 1_600_000_000_000


async def test_a_fetch_beyond_the_end_is_out_of_range(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"a", b"b"])

    async with wire(kafka) as connection:
        at_the_end = await connection.fetch(topic, 2)
        beyond = await connection.fetch(topic, 3)

    assert (at_the_end.error, at_the_end.data) == (0, b"")
    assert beyond.error == OFFSET_OUT_OF_RANGE


async def test_a_consumer_without_a_reset_policy_hears_of_an_offset_out_of_range(
    kafka: BrokerUnderTest,
) -> None:
    tp = TopicPartition(await kafka.create_topic("t"), 0)
    async with consumer(kafka, auto_offset_reset="none") as client:
        client.assign([tp])
        client.seek(tp, 100)

        with pytest.raises(OffsetOutOfRangeError):
            await client.getone()


async def test_deleted_records_are_gone_and_offsets_stay(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    tp = TopicPartition(topic, 0)
    await write(kafka, topic, [b"0", b"1", b"2", b"3"])

    async with admin_client(kafka.bootstrap) as admin:
        low_watermarks = await admin.delete_records({tp: RecordsToDelete(3)})

    assert low_watermarks == {tp: 3}
    assert [(record.offset, record.value) for record in await read(kafka, topic)] == [(3, b"3")]
    async with wire(kafka) as connection:
        assert (await connection.fetch(topic, 2)).error == OFFSET_OUT_OF_RANGE
        assert (await connection.fetch(topic, 3)).log_start == 3


async def test_records_beyond_the_end_cannot_be_deleted(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"0"])

    async with admin_client(kafka.bootstrap) as admin:
        with pytest.raises(OffsetOutOfRangeError):
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(2)})


async def test_an_offset_is_found_by_timestamp(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", retention_ms=-1)
    tp = TopicPartition(topic, 0)
    async with producer(kafka) as client:
        for timestamp in (1000, 2000, 2000, 3000):
            await client.send_and_wait(topic, b"v", timestamp_ms=timestamp)

    async with consumer(kafka) as client:

        async def lookup(timestamp: int) -> tuple[int, int] | None:
            found = (await client.offsets_for_times({tp: timestamp}))[tp]
            return (found.offset, found.timestamp) if found else None

        assert await lookup(0) == (0, 1000)
        assert await lookup(1000) == (0, 1000)
        assert await lookup(1001) == (1, 2000)
        assert await lookup(3000) == (3, 3000)
        assert await lookup(3001) is None


async def test_an_offset_is_found_by_timestamp_within_a_batch(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", retention_ms=-1)
    tp = TopicPartition(topic, 0)
    async with producer(kafka) as client:
        batch = client.create_batch()
        for timestamp in (1000, 2000, 3000):
            batch.append(key=None, value=b"v", timestamp=timestamp)
        await (await client.send_batch(batch, topic, partition=0))

    async with consumer(kafka) as client:
        found = (await client.offsets_for_times({tp: 2000}))[tp]

    assert (found.offset, found.timestamp) == (1, 2000)


async def test_compaction_keeps_the_last_value_of_each_key(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic(
        "t",
        cleanup_policy="compact",
        segment_ms=100,
        min_cleanable_dirty_ratio=0.01,
        max_compaction_lag_ms=100,
    )
    async with producer(kafka) as client:
        for number in range(20):
            await client.send_and_wait(topic, b"%d" % number, key=b"%d" % (number % 2))

    async def compacted() -> bool:
        # The last segment is never compacted: this write makes the ones before it eligible.
        async with producer(kafka) as client:
            await client.send_and_wait(topic, b"end", key=b"end")
        return [r.value for r in await read(kafka, topic) if r.key != b"end"] == [b"18", b"19"]

    await eventually(compacted)
    assert (await read(kafka, topic))[0].offset == 18


async def test_records_older_than_the_retention_time_go(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", retention_ms=1000, segment_ms=100)
    async with producer(kafka) as client:
        await client.send_and_wait(topic, b"old", timestamp_ms=1000)

    async def gone() -> bool:
        await write(kafka, topic, [b"new"])
        return b"old" not in await values(kafka, topic)

    await eventually(gone)
