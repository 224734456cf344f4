"""What librdkafka does with a broker: the other client that people have, by way of C."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from tests.brokers import BrokerUnderTest
from tests.conformance.clients import all_stable, committed_offset
from tests.polling import eventually

TIMEOUT = 30.0


def admin(kafka: BrokerUnderTest) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def producer(kafka: BrokerUnderTest, **options: object) -> Producer:
    return Producer({"bootstrap.servers": kafka.bootstrap, **dotted(options)})


def transactional(kafka: BrokerUnderTest) -> Producer:
    """A transactional producer that has its producer id."""
    client = producer(kafka, transactional_id=f"{kafka.prefix}id")
    client.init_transactions(TIMEOUT)
    return client


def consumer(kafka: BrokerUnderTest, **options: object) -> Consumer:
    settings = {
        "group_id": f"{kafka.prefix}group",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        **options,
    }
    return Consumer({"bootstrap.servers": kafka.bootstrap, **dotted(settings)})


def dotted(options: dict[str, Any]) -> dict[str, Any]:
    """Settings as librdkafka writes them."""
    return {name.replace("_", "."): value for name, value in options.items()}


def read(kafka: BrokerUnderTest, topic: str, **options: object) -> list[Message]:
    """Every message of the first partition, up to where it ends."""
    client = consumer(kafka, enable_partition_eof=True, **options)
    client.assign([TopicPartition(topic, 0, 0)])
    messages = []
    while True:
        message = client.poll(TIMEOUT)
        assert message is not None, "nothing, not even the partition's end"
        if (error := message.error()) is None:
            messages.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            client.close()
            return messages
        else:
            raise KafkaException(error)


def values(messages: Iterable[Message]) -> list[bytes | None]:
    return [message.value() for message in messages]


async def test_topics_are_created_described_grown_and_deleted(kafka: BrokerUnderTest) -> None:
    client, topic = admin(kafka), kafka.topic("t")

    new = NewTopic(topic, num_partitions=2, replication_factor=1, config={"segment.ms": "60000"})
    client.create_topics([new])[topic].result(TIMEOUT)
    await eventually(lambda: topic in client.list_topics(timeout=TIMEOUT).topics)

    resource = ConfigResource(ResourceType.TOPIC, topic)
    configs = client.describe_configs([resource])[resource].result(TIMEOUT)
    assert configs["segment.ms"].value == "60000"

    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        client.create_topics([new])[topic].result(TIMEOUT)

    client.create_partitions([NewPartitions(topic, 4)])[topic].result(TIMEOUT)
    await eventually(
        lambda: len(client.list_topics(topic, timeout=TIMEOUT).topics[topic].partitions) == 4
    )

    client.delete_topics([topic])[topic].result(TIMEOUT)
    await eventually(lambda: topic not in client.list_topics(timeout=TIMEOUT).topics)


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_an_idempotent_producer_delivers_in_order(kafka: BrokerUnderTest, codec: str) -> None:
    topic = await kafka.create_topic("t")
    sent = [b"%d " % number * 20 for number in range(500)]
    client = producer(kafka, enable_idempotence=True, compression_codec=codec, linger_ms=5)

    for value in sent:
        client.produce(topic, value, key=b"k", headers={"h": b"1"})
    assert client.flush(TIMEOUT) == 0

    messages = read(kafka, topic)
    assert values(messages) == sent
    assert [message.offset() for message in messages] == list(range(500))
    assert messages[0].headers() == [("h", b"1")]


async def test_what_is_committed_is_read_and_what_is_aborted_is_not(
    kafka: BrokerUnderTest,
) -> None:
    topic = await kafka.create_topic("t")
    client = transactional(kafka)
    client.begin_transaction()
    client.produce(topic, b"aborted")
    client.flush(TIMEOUT)
    client.abort_transaction(TIMEOUT)
    client.begin_transaction()
    client.produce(topic, b"committed")
    client.commit_transaction(TIMEOUT)
    await all_stable(kafka, topic)

    assert values(read(kafka, topic)) == [b"committed"]
    uncommitted = read(kafka, topic, isolation_level="read_uncommitted")
    assert values(uncommitted) == [b"aborted", b"committed"]


async def test_a_second_producer_fences_the_first(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    first = transactional(kafka)
    first.begin_transaction()
    first.produce(topic, b"fenced")
    first.flush(TIMEOUT)

    second = transactional(kafka)
    with pytest.raises(KafkaException) as caught:
        first.commit_transaction(TIMEOUT)

    assert caught.value.args[0].code() == KafkaError._FENCED
    second.begin_transaction()
    second.produce(topic, b"rightful")
    second.commit_transaction(TIMEOUT)
    await all_stable(kafka, topic)
    assert values(read(kafka, topic)) == [b"rightful"]


async def test_offsets_are_part_of_a_transaction(kafka: BrokerUnderTest) -> None:
    """With the group's metadata, which the broker checks: KIP-447."""
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    reader, writer = consumer(kafka), transactional(kafka)
    reader.subscribe([topic])
    while not reader.assignment():
        reader.poll(0.1)

    writer.begin_transaction()
    writer.send_offsets_to_transaction(
        [TopicPartition(topic, 0, 7)], reader.consumer_group_metadata(), TIMEOUT
    )
    assert await committed_offset(kafka, group, topic) is None
    writer.commit_transaction(TIMEOUT)

    assert await eventually(lambda: committed_offset(kafka, group, topic)) == 7
    reader.close()


async def test_two_members_share_the_partitions(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=4)
    first, second = consumer(kafka), consumer(kafka)
    first.subscribe([topic])
    second.subscribe([topic])

    def shared() -> bool:
        first.poll(0.05)
        second.poll(0.05)
        return len(first.assignment()) == len(second.assignment()) == 2

    await eventually(shared)
    first.close()

    def taken_over() -> bool:
        second.poll(0.05)
        return len(second.assignment()) == 4

    await eventually(taken_over)
    second.close()


async def test_a_cooperative_group_moves_only_what_must_move(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=4)
    options = {"partition_assignment_strategy": "cooperative-sticky"}
    revoked: list[int] = []
    first, second = consumer(kafka, **options), consumer(kafka, **options)
    first.subscribe([topic], on_revoke=lambda _, tps: revoked.extend(tp.partition for tp in tps))

    def has(client: Consumer, count: int) -> bool:
        first.poll(0.05)
        second.poll(0.05)
        return len(client.assignment()) == count

    await eventually(lambda: has(first, 4))
    second.subscribe([topic])
    await eventually(lambda: has(second, 2))

    assert len(revoked) == 2
    first.close()
    second.close()


async def test_groups_are_listed_and_described(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    client, group = admin(kafka), f"{kafka.prefix}group"
    reader = consumer(kafka)
    reader.subscribe([topic])
    while not reader.assignment():
        reader.poll(0.1)

    listed = client.list_consumer_groups().result(TIMEOUT)
    described = client.describe_consumer_groups([group])[group].result(TIMEOUT)

    assert group in {entry.group_id for entry in listed.valid}
    assert described.state.name == "STABLE"
    [only] = described.members
    assert only.assignment.topic_partitions == [TopicPartition(topic, 0)]
    reader.close()


async def test_offsets_are_listed_and_records_deleted(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", retention_ms=-1)
    writer, client, tp = producer(kafka), admin(kafka), TopicPartition(topic, 0)
    for timestamp in (1000, 2000, 3000):
        writer.produce(topic, b"v", timestamp=timestamp)
        writer.flush(TIMEOUT)

    def offset(spec: OffsetSpec) -> int:
        return int(client.list_offsets({tp: spec})[tp].result(TIMEOUT).offset)

    assert offset(OffsetSpec.earliest()) == 0
    assert offset(OffsetSpec.latest()) == 3
    assert offset(OffsetSpec.for_timestamp(1500)) == 1

    client.delete_records([TopicPartition(topic, 0, 2)])[tp].result(TIMEOUT)

    assert offset(OffsetSpec.earliest()) == 2
    assert [message.offset() for message in read(kafka, topic)] == [2]


async def test_a_message_larger_than_the_topic_allows_is_refused(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", max_message_bytes=1000)
    reports: list[KafkaError | None] = []
    client = producer(kafka)

    client.produce(topic, b"x" * 2000, on_delivery=lambda error, _: reports.append(error))
    client.flush(TIMEOUT)

    [error] = reports
    assert error is not None
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE


async def test_a_topic_nobody_knows_is_said_to_be_unknown(kafka: BrokerUnderTest) -> None:
    found = admin(kafka).list_topics(kafka.topic("nowhere"), timeout=TIMEOUT)

    [topic] = found.topics.values()
    assert topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
