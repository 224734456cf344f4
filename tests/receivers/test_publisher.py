"""Records and the position of their source, in one transaction, whatever fails."""

import asyncio

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from streamapp.errors import TopicError
from streamapp.faults import inject
from streamapp.receivers.errors import BrokerUnavailable, PositionError, PublishError, TakenOver
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher
from streamapp.receivers.topics import dead_letters_of, positions_of
from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.clock import ManualClock
from tests.receivers.topics import read_topic, values


class Place(msgspec.Struct, frozen=True):
    number: int


class Elsewhere(msgspec.Struct, frozen=True):
    cursor: str


NAME = "numbers"


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


def publisher(
    kafka: BrokerUnderTest, topic: str, name: str = NAME, **options: int
) -> PositionedPublisher[Place]:
    return PositionedPublisher(
        kafka.bootstrap, topic, name, Place, clock=ManualClock(), **{"partitions": 2, **options}
    )


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


def lose_the_connection() -> None:
    raise KafkaConnectionError("injected")


async def test_nothing_is_committed_at_first(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        assert first.position is None


async def test_records_and_position_are_committed_together(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        await first.publish(numbered(0, 5), Place(5))
        assert first.position == Place(5)
    async with publisher(kafka, topic) as second:
        assert second.position == Place(5)
    assert await values(kafka.bootstrap, topic) == {0: [b"0", b"2", b"4"], 1: [b"1", b"3"]}


async def test_records_go_round_the_partitions_however_they_are_batched(
    kafka: BrokerUnderTest, topic: str
):
    async with publisher(kafka, topic, partitions=3) as first:
        await first.publish(numbered(0, 4), Place(4))
        await first.publish([], Place(4))
    async with publisher(kafka, topic, partitions=3) as second:
        await second.publish(numbered(4, 5), Place(5))
        await second.publish(numbered(5, 11), Place(11))
    assert await values(kafka.bootstrap, topic) == {
        partition: numbered(0, 11)[partition::3] for partition in range(3)
    }


async def test_records_of_a_key_stay_together_in_order(kafka: BrokerUnderTest, topic: str):
    keys = [b"a", b"b", None, b"a", b"c", b"b", None, b"a"]
    async with publisher(kafka, topic, partitions=3) as first:
        await first.publish(numbered(0, 8), Place(8), keys=keys)
    records = await read_topic(kafka.bootstrap, topic)
    for key in (b"a", b"b", b"c"):
        of_key = [[r.value for r in found if r.key == key] for found in records.values()]
        expected = [b"%d" % number for number, other in enumerate(keys) if other == key]
        assert sorted(of_key) == [[], [], expected]


async def test_keys_are_placed_as_kafka_places_them(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic, partitions=3) as first:
        await first.publish(numbered(0, 20), Place(20), keys=numbered(0, 20))
    ours = await read_topic(kafka.bootstrap, topic)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    other = await kafka.create_topic("other", partitions=3)
    for key in numbered(0, 20):
        await producer.send_and_wait(other, key=key, value=key)
    await producer.stop()
    theirs = await read_topic(kafka.bootstrap, other)
    assert {p: [r.key for r in found] for p, found in ours.items()} == {
        p: [r.key for r in found] for p, found in theirs.items()
    }


async def test_headers_travel_with_their_records(kafka: BrokerUnderTest, topic: str):
    headers = [[("at", value)] for value in numbered(0, 4)]
    async with publisher(kafka, topic) as first:
        await first.publish(numbered(0, 4), Place(4), headers=headers)
    for records in (await read_topic(kafka.bootstrap, topic)).values():
        assert all(record.headers == (("at", record.value),) for record in records)


async def test_records_are_stamped_with_the_time_of_publishing(kafka: BrokerUnderTest, topic: str):
    clock = ManualClock()
    clock.now -= 60.0
    async with PositionedPublisher(kafka.bootstrap, topic, NAME, Place, clock=clock) as first:
        await first.publish([b"0"], Place(1))
    (record,) = (await read_topic(kafka.bootstrap, topic))[0]
    assert record.timestamp == clock.now_ms()


async def test_what_does_not_fit_into_one_batch_goes_in_several(kafka: BrokerUnderTest, topic: str):
    lines = [b"%06d" % number * 2000 for number in range(200)]
    async with publisher(kafka, topic) as first:
        await first.publish(lines, Place(200))
    assert await values(kafka.bootstrap, topic) == {0: lines[0::2], 1: lines[1::2]}


async def test_the_longest_record_fits(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        longest = b"x" * first.max_record_bytes
        await first.publish([longest], Place(1))
    assert (await values(kafka.bootstrap, topic))[0] == [longest]


async def test_the_limit_is_the_topics_own(kafka: BrokerUnderTest):
    topic = await kafka.create_topic("small", max_message_bytes=10_000)
    async with publisher(kafka, topic) as first:
        assert 8_000 < first.max_record_bytes < 10_000
        await first.publish([b"x" * first.max_record_bytes] * 4, Place(4))
        with pytest.raises(PublishError, match="refuses"):
            await first.publish([b"x" * 20_000], Place(5))
        await first.publish([b"y"], Place(6))
    async with publisher(kafka, topic) as second:
        assert second.position == Place(6)


async def test_dead_letters_go_to_a_topic_of_their_own(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        letter = DeadLetter(b"x" * 100_000, "too long", [("line", b"7")])
        await first.publish([b"0"], Place(1), dead_letters=[letter])
    (record,) = (await read_topic(kafka.bootstrap, dead_letters_of(topic)))[0]
    assert record.value == b"x" * 65536
    assert record.headers == (("reason", b"too long"), ("line", b"7"))


@pytest.mark.parametrize("point", ["before-delivery", "before-commit", "after-commit"])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_lost_connection_loses_and_repeats_nothing(
    kafka: BrokerUnderTest, topic: str, point: str, nth: int
):
    with inject(f"receiver.{point}", lose_the_connection, nth):
        async with publisher(kafka, topic) as first:
            for number in range(3):
                await first.publish(numbered(4 * number, 4 * number + 4), Place(4 * number + 4))
            assert first.position == Place(12)
    assert await values(kafka.bootstrap, topic) == {
        0: numbered(0, 12)[0::2],
        1: numbered(0, 12)[1::2],
    }


async def test_failing_while_it_opens_is_tried_again(kafka: BrokerUnderTest, topic: str):
    with inject("receiver.fenced", lose_the_connection):
        async with publisher(kafka, topic) as first:
            await first.publish([b"0"], Place(1))
    assert await values(kafka.bootstrap, topic) == {0: [b"0"], 1: []}


async def test_patience_has_an_end(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        first._session = None

        async def fail(after: object) -> None:
            raise KafkaConnectionError("nobody there")

        first._open = fail  # type: ignore[assignment, method-assign]
        with pytest.raises(BrokerUnavailable, match="nobody there"):
            await first.publish([b"0"], Place(1))


async def test_the_later_of_two_takes_over(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        await first.publish(numbered(0, 2), Place(2))
        async with publisher(kafka, topic) as second:
            assert second.position == Place(2)
            with pytest.raises(TakenOver, match="another process has taken over"):
                await first.publish(numbered(2, 4), Place(4))
            await second.publish(numbered(2, 6), Place(6))
            with pytest.raises(TakenOver):
                await first.publish(numbered(2, 4), Place(4))
            await second.publish(numbered(6, 8), Place(8))
    assert await values(kafka.bootstrap, topic) == {
        0: numbered(0, 8)[0::2],
        1: numbered(0, 8)[1::2],
    }


async def test_an_open_transaction_of_the_one_before_is_aborted(kafka: BrokerUnderTest, topic: str):
    async with publisher(kafka, topic) as first:
        await first.publish(numbered(0, 2), Place(2))
        assert first._session is not None
        producer = first._session._producer
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"never committed", partition=0)
        async with publisher(kafka, topic) as second:
            assert second.position == Place(2)
            await second.publish(numbered(2, 4), Place(4))
    assert await values(kafka.bootstrap, topic) == {0: [b"0", b"2"], 1: [b"1", b"3"]}


async def test_receivers_of_one_topic_keep_positions_of_their_own(
    kafka: BrokerUnderTest, topic: str
):
    async with publisher(kafka, topic, "a") as first, publisher(kafka, topic, "b") as second:
        await first.publish([b"0"], Place(1))
        await second.publish([b"0", b"1"], Place(2))
    async with publisher(kafka, topic, "a") as first, publisher(kafka, topic, "b") as second:
        assert (first.position, second.position) == (Place(1), Place(2))


async def test_the_position_of_another_kind_of_receiver_is_refused(
    kafka: BrokerUnderTest, topic: str
):
    async with publisher(kafka, topic) as first:
        await first.publish([b"0"], Place(1))
    async with PositionedPublisher(kafka.bootstrap, topic, NAME, Elsewhere) as second:
        with pytest.raises(PositionError, match="--name"):
            _ = second.position


@pytest.mark.parametrize(
    ("value", "complaint"),
    [(b"not json", "cannot be read"), (b'{"version":99}', "version 99")],
)
async def test_a_position_that_is_not_understood_is_refused(
    kafka: BrokerUnderTest, topic: str, value: bytes, complaint: str
):
    async with publisher(kafka, topic):
        pass
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    await producer.send_and_wait(positions_of(topic), value, key=NAME.encode())
    await producer.stop()
    with pytest.raises(PositionError, match=complaint):
        await publisher(kafka, topic).__aenter__()


async def test_positions_that_would_expire_are_refused(kafka: BrokerUnderTest, topic: str):
    await kafka.create_topic(positions_of(topic), cleanup_policy="delete")
    with pytest.raises(TopicError, match="kafka-configs"):
        await publisher(kafka, topic).__aenter__()


async def test_a_topic_that_was_made_anew_is_noticed(kafka: BrokerUnderTest):
    topic = await kafka.create_topic("short-lived")
    async with publisher(kafka, topic) as first:
        await first.publish(numbered(0, 5), Place(5))
    await kafka.delete_topics()

    async def gone() -> bool:
        return await read_topic(kafka.bootstrap, topic) == {}

    await eventually(gone)
    with pytest.raises(PositionError, match=r"deleted and made anew.*published 5 records"):
        await publisher(kafka, topic).__aenter__()


async def test_cancelled_in_a_transaction_it_leaves_nothing_behind(
    kafka: BrokerUnderTest, topic: str
):
    async def publish() -> None:
        async with publisher(kafka, topic) as first:
            await first.publish(numbered(0, 2), Place(2))
            await first.publish(numbered(2, 4), Place(4))

    before = asyncio.all_tasks()
    publishing = asyncio.create_task(publish())
    with (
        inject("receiver.before-delivery", publishing.cancel, nth=3),
        pytest.raises(asyncio.CancelledError),
    ):
        await publishing
    assert asyncio.all_tasks() == before
    # Nobody has fenced it, so an open transaction would hold up this reader.
    assert await values(kafka.bootstrap, topic) == {0: [b"0"], 1: [b"1"]}


async def test_a_topic_that_is_there_keeps_its_partitions(kafka: BrokerUnderTest):
    topic = await kafka.create_topic("wide", partitions=5)
    async with publisher(kafka, topic, partitions=2) as first:
        await first.publish(numbered(0, 5), Place(5))
    assert await values(kafka.bootstrap, topic) == {n: [b"%d" % n] for n in range(5)}


async def test_a_name_that_no_topic_can_have_is_refused(kafka: BrokerUnderTest):
    with pytest.raises(TopicError, match="no good name"):
        await publisher(kafka, "no good name!").__aenter__()


async def test_without_a_broker_it_says_what_to_do(unused_tcp_port: int):
    address = f"127.0.0.1:{unused_tcp_port}"
    with pytest.raises(BrokerUnavailable, match=f"streamapp broker --port {unused_tcp_port}"):
        await PositionedPublisher(address, "any", NAME, Place).__aenter__()
