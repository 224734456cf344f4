"""Transactions as a reader and a rival see them: KIP-98, over aiokafka and request by request."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import ProducerFenced
from aiokafka.record.control_record import ABORT_MARKER, COMMIT_MARKER, ControlRecord

from tests.brokers import BrokerUnderTest
from tests.conformance.clients import (
    all_stable,
    committed_offset,
    end_offset,
    producer,
    read,
    values,
    write,
)
from tests.conformance.wire import (
    INVALID_PRODUCER_EPOCH,
    INVALID_TXN_STATE,
    NONE,
    RawProducer,
    wire,
)
from tests.polling import eventually


async def test_committed_records_can_be_read(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await client.send(topic, b"a")
        await client.send(topic, b"b")
        await client.commit_transaction()
    await all_stable(kafka, topic)

    assert await values(kafka, topic) == [b"a", b"b"]


async def test_aborted_records_are_seen_by_uncommitted_readers_alone(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"aborted")
        await client.abort_transaction()
        async with client.transaction():
            await client.send(topic, b"committed")
    await all_stable(kafka, topic)

    assert await values(kafka, topic) == [b"committed"]
    assert await values(kafka, topic, isolation="read_uncommitted") == [b"aborted", b"committed"]


async def test_a_transaction_covers_all_its_partitions(kafka: BrokerUnderTest) -> None:
    topics = [await kafka.create_topic(name) for name in ("a", "b", "c")]
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        for outcome in (b"committed", b"aborted"):
            await client.begin_transaction()
            for topic in topics:
                await client.send_and_wait(topic, outcome)
            await (
                client.commit_transaction()
                if outcome == b"committed"
                else client.abort_transaction()
            )

    for topic in topics:
        await all_stable(kafka, topic)
        assert await values(kafka, topic) == [b"committed"]


async def test_readers_of_committed_records_stop_at_an_open_transaction(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"before"])
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"open")
        await write(kafka, topic, [b"after"])

        assert await end_offset(kafka, topic, "read_committed") == 1
        assert await end_offset(kafka, topic, "read_uncommitted") == 3
        assert await values(kafka, topic) == [b"before"]

        await client.commit_transaction()

    await all_stable(kafka, topic)
    assert await end_offset(kafka, topic, "read_committed") == 4
    assert await values(kafka, topic) == [b"before", b"open", b"after"]


async def test_the_first_of_several_open_transactions_holds_up_the_readers(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    async with (
        producer(kafka, transactional_id=f"{kafka.prefix}1") as first,
        producer(kafka, transactional_id=f"{kafka.prefix}2") as second,
    ):
        await first.begin_transaction()
        await first.send_and_wait(topic, b"first")
        await second.begin_transaction()
        await second.send_and_wait(topic, b"second")
        await second.commit_transaction()

        assert await values(kafka, topic) == []

        await first.abort_transaction()

    await all_stable(kafka, topic)
    assert await values(kafka, topic) == [b"second"]


async def test_markers_occupy_offsets_and_carry_the_outcome(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        for outcome in (True, False):
            assert await raw.add_partition(topic) == NONE
            assert await raw.produce(topic, b"x", b"y") == NONE
            assert await raw.end(commit=outcome) == NONE
            await all_stable(kafka, topic)

        fetched = await connection.fetch(topic, 0)

    data, commit, aborted, abort = fetched.batches()
    assert [batch.base_offset for batch in (data, commit, aborted, abort)] == [0, 2, 3, 5]
    assert [batch.is_control for batch in (data, commit, aborted, abort)] == [0, 1, 0, 1]
    assert {batch.producer_id for batch in fetched.batches()} == {raw.producer_id}
    assert outcome_of(commit.records[0][1]) == COMMIT_MARKER
    assert outcome_of(abort.records[0][1]) == ABORT_MARKER
    assert fetched.last_stable_offset == fetched.high_watermark == 6
    assert fetched.aborted == [(raw.producer_id, 3)]


async def test_uncommitted_readers_are_told_of_no_aborts(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        await raw.add_partition(topic)
        await raw.produce(topic, b"x")
        await raw.end(commit=False)
        await all_stable(kafka, topic)

        fetched = await connection.fetch(topic, 0, read_committed=False)

    assert fetched.aborted == []
    assert len(fetched.batches()) == 2


async def test_a_fetch_names_only_the_aborts_that_its_records_need(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        for _ in range(2):
            await raw.add_partition(topic)
            await raw.produce(topic, b"x")
            await raw.end(commit=False)
            await all_stable(kafka, topic)

        assert (await connection.fetch(topic, 0)).aborted == [
            (raw.producer_id, 0),
            (raw.producer_id, 2),
        ]
        assert (await connection.fetch(topic, 2)).aborted == [(raw.producer_id, 2)]


async def test_a_transaction_without_records_leaves_nothing(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        async with client.transaction():
            pass
        async with client.transaction():
            await client.send(topic, b"a")
    await all_stable(kafka, topic)

    assert [record.offset for record in await read(kafka, topic)] == [0]


async def test_a_second_producer_fences_the_first(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with (
        producer(kafka, transactional_id=f"{kafka.prefix}id") as first,
        producer(kafka, transactional_id=f"{kafka.prefix}id") as second,
    ):
        with pytest.raises(ProducerFenced):
            async with first.transaction():
                await first.send_and_wait(topic, b"fenced")

        async with second.transaction():
            await second.send(topic, b"rightful")
    await all_stable(kafka, topic)

    assert await values(kafka, topic) == [b"rightful"]


async def test_starting_a_second_producer_aborts_what_the_first_has_open(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as first:
        await first.begin_transaction()
        await first.send_and_wait(topic, b"abandoned")

        async with producer(kafka, transactional_id=f"{kafka.prefix}id"):
            assert await end_offset(kafka, topic, "read_committed") == 2
            assert await values(kafka, topic) == []

        with pytest.raises(ProducerFenced):
            await first.commit_transaction()


async def test_every_step_of_a_fenced_producer_is_refused(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with wire(kafka) as connection:
        zombie = RawProducer(connection, f"{kafka.prefix}id")
        await zombie.init()
        assert await zombie.add_partition(topic) == NONE
        assert await zombie.add_offsets(group) == NONE
        rightful = RawProducer(connection, f"{kafka.prefix}id")
        await rightful.init()

        assert rightful.producer_id == zombie.producer_id
        assert rightful.epoch > zombie.epoch
        assert await zombie.add_partition(topic) == INVALID_PRODUCER_EPOCH
        assert await zombie.produce(topic, b"v") == INVALID_PRODUCER_EPOCH
        assert await zombie.add_offsets(group) == INVALID_PRODUCER_EPOCH
        assert await zombie.commit_offset(group, topic, 7) == INVALID_PRODUCER_EPOCH
        assert await zombie.end(commit=True) == INVALID_PRODUCER_EPOCH
        assert await zombie.end(commit=False) == INVALID_PRODUCER_EPOCH

        [abort] = (await connection.fetch(topic, 0)).batches()
        assert abort.is_control


async def test_a_record_outside_the_transaction_is_refused(kafka: BrokerUnderTest) -> None:
    """A partition must be added first, or a hanging transaction could never end: KIP-890."""
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()

        assert await raw.produce(topic, b"v") == INVALID_TXN_STATE

    assert await end_offset(kafka, topic, "read_uncommitted") == 0


async def test_offsets_outside_the_transaction_are_refused(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()

        assert await raw.commit_offset(group, topic, 7) == INVALID_TXN_STATE

    assert await committed_offset(kafka, group, topic) is None


async def test_a_commit_may_be_repeated_and_not_turned_into_an_abort(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init()
        await raw.add_partition(topic)
        await raw.produce(topic, b"v")

        assert await raw.end(commit=True) == NONE
        assert await raw.end(commit=True) == NONE
        assert await raw.end(commit=False) == INVALID_TXN_STATE

    await all_stable(kafka, topic)
    assert await values(kafka, topic) == [b"v"]


async def test_an_open_transaction_is_aborted_after_its_timeout(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    async with wire(kafka) as connection:
        raw = RawProducer(connection, f"{kafka.prefix}id")
        await raw.init(timeout_ms=1000)
        await raw.add_partition(topic)
        await raw.produce(topic, b"too slow")

        await all_stable(kafka, topic)

        assert await raw.end(commit=True) == INVALID_PRODUCER_EPOCH
    assert await values(kafka, topic) == []
    assert await end_offset(kafka, topic, "read_committed") == 2


async def test_a_producer_that_was_timed_out_is_fenced(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    options = {"transactional_id": f"{kafka.prefix}id", "transaction_timeout_ms": 1000}
    async with producer(kafka, **options) as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"too slow")
        await all_stable(kafka, topic)

        with pytest.raises(ProducerFenced):
            await client.commit_transaction()


async def test_offsets_in_a_transaction_appear_with_its_commit(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await send_offset(client, group, topic, 7)
        assert await committed_offset(kafka, group, topic) is None

        await client.commit_transaction()

        assert await eventually(lambda: committed_offset(kafka, group, topic)) == 7


async def test_offsets_in_an_aborted_transaction_never_appear(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await send_offset(client, group, topic, 7)
        await client.commit_transaction()
        await client.begin_transaction()
        await send_offset(client, group, topic, 8)
        await client.abort_transaction()
        # Fencing waits until the abort has reached every partition, the offsets' too.
        async with producer(kafka, transactional_id=f"{kafka.prefix}id"):
            assert await committed_offset(kafka, group, topic) == 7


async def test_fencing_drops_the_offsets_of_the_open_transaction(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await send_offset(client, group, topic, 7)

        async with producer(kafka, transactional_id=f"{kafka.prefix}id"):
            assert await committed_offset(kafka, group, topic) is None


async def test_many_transactions_at_once_do_not_mix(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")

    async def write_ten_transactions(name: int) -> None:
        async with producer(kafka, transactional_id=f"{kafka.prefix}{name}") as client:
            for number in range(10):
                await client.begin_transaction()
                await client.send_and_wait(topic, b"%d-%d" % (name, number))
                if number % 3:
                    await client.commit_transaction()
                else:
                    await client.abort_transaction()

    await asyncio.gather(*(write_ten_transactions(name) for name in range(8)))
    await all_stable(kafka, topic)

    committed = [b"%d-%d" % (name, n) for name in range(8) for n in range(10) if n % 3]
    found = [record.value or b"" for record in await read(kafka, topic)]
    assert sorted(found) == sorted(committed)
    for name in range(8):
        own = [value for value in found if value.startswith(b"%d-" % name)]
        assert own == sorted(own)


async def send_offset(client: AIOKafkaProducer, group: str, topic: str, offset: int) -> None:
    """Make an offset for the topic's first partition part of the client's transaction."""
    tp = TopicPartition(topic, 0)
    await client.send_offsets_to_transaction({tp: OffsetAndMetadata(offset, "")}, group)


def outcome_of(key: bytes | None) -> ControlRecord:
    """What the key of a control record says: commit or abort."""
    assert key is not None
    return ControlRecord.parse(key)
