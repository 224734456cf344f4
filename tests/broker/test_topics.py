"""Topics and configurations: what may be created and changed, in Kafka's own error codes."""

from __future__ import annotations

from typing import Any

import pytest

from streamapp.broker import Broker, ErrorCode
from tests.broker.wire import Client, create_topic

pytestmark = pytest.mark.broker

TOPIC, BROKER = 2, 4


def topic(name: str = "t", **more: Any) -> dict[str, Any]:
    return {"name": name, "num_partitions": 1, "replication_factor": 1, **more}


async def created(client: Client, *topics: dict[str, Any], **more: Any) -> list[ErrorCode]:
    answer = await client.call("CreateTopics", 4, topics=topics, **more)
    return [each.error_code for each in answer.topics]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (topic("t"), ErrorCode.none),
        (topic("t" * 249), ErrorCode.none),
        (topic(num_partitions=-1, replication_factor=-1), ErrorCode.none),
        (topic("t" * 250), ErrorCode.invalid_topic_exception),
        (topic(""), ErrorCode.invalid_topic_exception),
        (topic(".."), ErrorCode.invalid_topic_exception),
        (topic("a b"), ErrorCode.invalid_topic_exception),
        (topic("there"), ErrorCode.topic_already_exists),
        (topic("with_dot"), ErrorCode.invalid_topic_exception),
        (topic(num_partitions=0), ErrorCode.invalid_partitions),
        (topic(num_partitions=-2), ErrorCode.invalid_partitions),
        (topic(num_partitions=10_001), ErrorCode.invalid_partitions),
        (topic(replication_factor=3), ErrorCode.invalid_replication_factor),
        (topic(replication_factor=0), ErrorCode.invalid_replication_factor),
        (topic(configs=[{"name": "no.such", "value": "1"}]), ErrorCode.invalid_config),
        (topic(configs=[{"name": "retention.ms", "value": "soon"}]), ErrorCode.invalid_config),
        (topic(configs=[{"name": "retention.ms", "value": "-2"}]), ErrorCode.invalid_config),
        (topic(configs=[{"name": "cleanup.policy", "value": "keep"}]), ErrorCode.invalid_config),
        (topic(configs=[{"name": "retention.ms", "value": None}]), ErrorCode.invalid_config),
        (
            topic(assignments=[{"partition_index": 0, "broker_ids": (1,)}]),
            ErrorCode.invalid_request,
        ),
        (
            topic(
                num_partitions=-1,
                replication_factor=-1,
                assignments=[{"partition_index": 0, "broker_ids": (1,)}],
            ),
            ErrorCode.none,
        ),
        (
            topic(
                num_partitions=-1,
                replication_factor=-1,
                assignments=[{"partition_index": 1, "broker_ids": (1,)}],
            ),
            ErrorCode.invalid_replica_assignment,
        ),
    ],
)
async def test_a_topic_is_created_or_refused(
    client: Client, asked: dict[str, Any], code: ErrorCode
) -> None:
    await create_topic(client, "there")
    await create_topic(client, "with.dot")

    assert await created(client, asked, validate_only=True) == [code]
    assert await created(client, asked) == [code]


async def test_a_topic_asked_for_twice_is_an_error_and_the_others_are_created(
    client: Client,
) -> None:
    codes = await created(client, topic("a"), topic("b"), topic("a"))

    assert codes == [ErrorCode.invalid_request, ErrorCode.none, ErrorCode.invalid_request]


async def test_deleting_says_which_topics_there_were(client: Client) -> None:
    await create_topic(client, "t")

    answer = await client.call("DeleteTopics", 3, topic_names=("t", "t"))

    codes = [each.error_code for each in answer.responses]
    assert codes == [ErrorCode.none, ErrorCode.unknown_topic_or_partition]


async def test_a_topic_grows_and_does_not_shrink(client: Client) -> None:
    await create_topic(client, "t", partitions=2)

    async def grow(count: int, name: str = "t", **more: Any) -> ErrorCode:
        asked = {"name": name, "count": count, "assignments": None, **more}
        answer = await client.call("CreatePartitions", 1, topics=[asked])
        code: ErrorCode = answer.results[0].error_code
        return code

    assert await grow(1) is ErrorCode.invalid_partitions
    assert await grow(2) is ErrorCode.invalid_partitions
    assert await grow(3, "none") is ErrorCode.unknown_topic_or_partition
    assert await grow(3, assignments=[{"broker_ids": (9,)}]) is ErrorCode.invalid_replica_assignment
    assert await grow(3) is ErrorCode.none
    answer = await client.call("Metadata", 5, topics=[{"name": "t"}])
    assert [each.partition_index for each in answer.topics[0].partitions] == [0, 1, 2]


async def test_topics_are_created_on_demand_when_both_sides_want_it() -> None:
    async with Broker(auto_create=True, default_partitions=3) as broker, Client(broker) as client:
        unwanted = await client.call(
            "Metadata", 4, topics=[{"name": "t"}], allow_auto_topic_creation=False
        )
        wanted = await client.call("Metadata", 4, topics=[{"name": "t"}, {"name": "a b"}])

    assert unwanted.topics[0].error_code is ErrorCode.unknown_topic_or_partition
    assert len(wanted.topics[0].partitions) == 3
    assert wanted.topics[1].error_code is ErrorCode.invalid_topic_exception


async def test_topics_are_not_created_on_demand_unless_the_broker_is_told_to(
    client: Client,
) -> None:
    answer = await client.call("Metadata", 4, topics=[{"name": "t"}])

    assert answer.topics[0].error_code is ErrorCode.unknown_topic_or_partition


async def configs(client: Client, name: str = "t", kind: int = TOPIC) -> dict[str, Any]:
    resource = {"resource_type": kind, "resource_name": name, "configuration_keys": None}
    answer = await client.call("DescribeConfigs", 2, resources=[resource], include_synonyms=True)
    assert answer.results[0].error_code is ErrorCode.none, answer
    return {each.name: each for each in answer.results[0].configs}


async def incremental(
    client: Client, *operations: tuple[str, int, str | None], kind: int = TOPIC
) -> ErrorCode:
    changes = [
        {"name": name, "config_operation": operation, "value": value}
        for name, operation, value in operations
    ]
    resource = {"resource_type": kind, "resource_name": "t", "configs": changes}
    answer = await client.call("IncrementalAlterConfigs", 0, resources=[resource])
    code: ErrorCode = answer.responses[0].error_code
    return code


SET, DELETE, APPEND, SUBTRACT = range(4)


async def test_configs_tell_their_value_and_where_it_comes_from(client: Client) -> None:
    await create_topic(client, "t", retention_ms="1000")

    described = await configs(client)

    assert (described["retention.ms"].value, described["retention.ms"].config_source) == ("1000", 1)
    assert [each.value for each in described["retention.ms"].synonyms] == ["1000", "604800000"]
    assert (described["cleanup.policy"].value, described["cleanup.policy"].config_source) == (
        "delete",
        5,
    )


async def test_configs_change_one_by_one(client: Client) -> None:
    await create_topic(client, "t", retention_ms="1000", segment_bytes="100000")

    code = await incremental(
        client,
        ("retention.ms", DELETE, None),
        ("max.message.bytes", SET, "77"),
        ("cleanup.policy", APPEND, "compact"),
    )
    assert code is ErrorCode.none
    assert await incremental(client, ("cleanup.policy", SUBTRACT, "delete")) is ErrorCode.none

    described = {name: each.value for name, each in (await configs(client)).items()}
    assert described["retention.ms"] == "604800000"
    assert described["max.message.bytes"] == "77"
    assert described["cleanup.policy"] == "compact"
    assert described["segment.bytes"] == "100000"


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (("no.such", SET, "1"), ErrorCode.invalid_config),
        (("no.such", DELETE, None), ErrorCode.invalid_config),
        (("retention.ms", SET, "soon"), ErrorCode.invalid_config),
        (("retention.ms", APPEND, "1"), ErrorCode.invalid_config),
    ],
)
async def test_a_change_that_cannot_be_is_refused(
    client: Client, operation: tuple[str, int, str | None], code: ErrorCode
) -> None:
    await create_topic(client, "t")

    assert await incremental(client, operation) is code
    assert await incremental(client, operation, kind=BROKER) is ErrorCode.invalid_request


async def test_the_older_way_replaces_all_configs(client: Client) -> None:
    await create_topic(client, "t", retention_ms="1000")
    change = {"name": "max.message.bytes", "value": "77"}
    resource = {"resource_type": TOPIC, "resource_name": "t", "configs": [change]}

    answer = await client.call("AlterConfigs", 1, resources=[resource])

    assert answer.responses[0].error_code is ErrorCode.none
    described = {name: each.value for name, each in (await configs(client)).items()}
    assert (described["retention.ms"], described["max.message.bytes"]) == ("604800000", "77")


async def test_the_broker_describes_itself(client: Client) -> None:
    assert (await configs(client, "1", BROKER))["num.partitions"].value == "1"
    cluster = await client.call("DescribeCluster", 0)
    assert [each.broker_id for each in cluster.brokers] == [cluster.controller_id]
