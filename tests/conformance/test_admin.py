"""Topics and their configuration, as administrators see them."""

from __future__ import annotations

import pytest
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidPartitionsError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from tests.brokers import BrokerUnderTest, admin_client
from tests.polling import eventually


async def describe(kafka: BrokerUnderTest, topic: str) -> tuple[type[Exception], int]:
    """The error class that metadata gives for a topic, and its number of partitions."""
    async with admin_client(kafka.bootstrap) as admin:
        [found] = await admin.describe_topics([topic])
        return for_code(found["error_code"]), len(found["partitions"])


async def configs(kafka: BrokerUnderTest, topic: str) -> dict[str, str]:
    """The configuration of a topic, defaults included."""
    async with admin_client(kafka.bootstrap) as admin:
        [response] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        [(error, message, _, _, entries)] = response.resources
        assert error == 0, message
        return {name: value for name, value, *_ in entries}


async def create(kafka: BrokerUnderTest, topic: str, partitions: int) -> type[Exception]:
    """Try to create a topic; the error class of the answer."""
    async with admin_client(kafka.bootstrap) as admin:
        response = await admin.create_topics([NewTopic(topic, partitions, 1)])
        [(_, code, _)] = response.topic_errors
        return for_code(code)


async def test_a_topic_is_created_with_its_partitions_and_configs(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic(
        "t", partitions=3, cleanup_policy="compact", retention_ms=-1, segment_ms=60_000
    )

    _, partitions = await describe(kafka, topic)
    found = await configs(kafka, topic)

    assert partitions == 3
    assert found["cleanup.policy"] == "compact"
    assert found["retention.ms"] == "-1"
    assert found["segment.ms"] == "60000"


async def test_configs_not_given_have_kafkas_defaults(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")

    found = await configs(kafka, topic)

    assert found["cleanup.policy"] == "delete"
    assert found["retention.ms"] == "604800000"
    assert found["delete.retention.ms"] == "86400000"
    assert found["message.timestamp.type"] == "CreateTime"
    assert found["max.message.bytes"] == "1048588"


async def test_creating_an_existing_topic_is_an_error(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=2)

    assert await create(kafka, topic, 2) is TopicAlreadyExistsError


async def test_a_topic_needs_at_least_one_partition(kafka: BrokerUnderTest) -> None:
    assert await create(kafka, kafka.topic("t"), 0) is InvalidPartitionsError


async def test_a_deleted_topic_is_unknown(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")

    async with admin_client(kafka.bootstrap) as admin:
        await admin.delete_topics([topic])

    async def unknown() -> bool:
        error, _ = await describe(kafka, topic)
        return error is UnknownTopicOrPartitionError

    await eventually(unknown)


async def test_deleting_an_unknown_topic_is_an_error(kafka: BrokerUnderTest) -> None:
    async with admin_client(kafka.bootstrap) as admin:
        response = await admin.delete_topics([kafka.topic("nowhere")])

    [(_, code)] = response.topic_error_codes
    assert for_code(code) is UnknownTopicOrPartitionError


async def test_metadata_of_an_unknown_topic_says_so(kafka: BrokerUnderTest) -> None:
    error, partitions = await describe(kafka, kafka.topic("nowhere"))

    assert error is UnknownTopicOrPartitionError
    assert partitions == 0


async def test_partitions_can_be_added(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=2)

    async with admin_client(kafka.bootstrap) as admin:
        await admin.create_partitions({topic: NewPartitions(5)})

    async def grown() -> bool:
        return (await describe(kafka, topic))[1] == 5

    await eventually(grown)


async def test_partitions_cannot_be_removed(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=2)

    async with admin_client(kafka.bootstrap) as admin:
        with pytest.raises(InvalidPartitionsError):
            await admin.create_partitions({topic: NewPartitions(1)})

    assert (await describe(kafka, topic))[1] == 2
