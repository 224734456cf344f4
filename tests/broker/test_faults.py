"""Faults on demand: once asked for, exactly as often as asked for."""

from __future__ import annotations

import asyncio

import pytest

from streamapp.broker import Broker, ErrorCode
from streamapp.broker.faults import Faults
from streamapp.broker.protocol import APIS
from tests.broker.building import batch
from tests.broker.wire import Client, create_topic, produce, produced

pytestmark = pytest.mark.broker

A_BATCH = batch((None, b"value"))


async def test_an_api_fails_as_often_as_asked_for(broker: Broker, client: Client) -> None:
    await create_topic(client, "t")
    broker.faults.fail("Produce", ErrorCode.not_leader_or_follower, times=2)
    broker.faults.fail("Produce", 7)

    codes = [(await produce(client, "t", A_BATCH)).error_code for _ in range(4)]

    assert [code.value for code in codes] == [6, 6, 7, 0]
    assert not broker.faults.active


@pytest.mark.parametrize("api", [api.name for api in APIS])
async def test_every_api_can_fail_in_every_version(
    broker: Broker, client: Client, api: str
) -> None:
    versions = next(range(each.first, each.last + 1) for each in APIS if each.name == api)
    for version in versions:
        broker.faults.fail(api, ErrorCode.coordinator_not_available)
        answer = await client.call(api, version)
        if hasattr(answer, "error_code") and api != "Fetch":  # that has one for each partition
            assert answer.error_code is ErrorCode.coordinator_not_available
    assert not broker.faults.active


async def test_a_failure_is_for_the_client_that_it_is_meant_for(
    broker: Broker, client: Client
) -> None:
    broker.faults.fail("FindCoordinator", ErrorCode.coordinator_not_available, client="other")
    async with Client(broker, "other") as other:
        mine = await client.call("FindCoordinator", 1, key="g")
        theirs = await other.call("FindCoordinator", 1, key="g")

    assert mine.error_code is ErrorCode.none
    assert theirs.error_code is ErrorCode.coordinator_not_available


async def test_dropped_before_it_is_handled_a_request_has_no_effect(
    broker: Broker, client: Client
) -> None:
    await create_topic(client, "t")
    broker.faults.drop("Produce")
    async with Client(broker) as dropped:
        await dropped.send("Produce", 7, acks=-1, topic_data=produced("t", A_BATCH))
        assert await dropped.is_closed()

    assert (await produce(client, "t", A_BATCH)).base_offset == 0


async def test_dropped_after_it_is_handled_a_request_has_its_effect(
    broker: Broker, client: Client
) -> None:
    await create_topic(client, "t")
    broker.faults.drop("Produce", when="after")
    async with Client(broker) as dropped:
        await dropped.send("Produce", 7, acks=-1, topic_data=produced("t", A_BATCH))
        assert await dropped.is_closed()

    assert (await produce(client, "t", A_BATCH)).base_offset == 1


async def test_a_delayed_request_lets_others_pass(broker: Broker, client: Client) -> None:
    await create_topic(client, "t")
    broker.faults.delay("Produce", seconds=0.05)
    loop = asyncio.get_running_loop()
    async with Client(broker) as other:
        began = loop.time()
        await client.send("Produce", 7, acks=-1, topic_data=produced("t", A_BATCH))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while broker.faults.active:
                await other.call("ApiVersions", 0)
        first = await produce(other, "t", A_BATCH)
        delayed = await client.answer("Produce", 7)

    assert first.base_offset == 0
    assert delayed.responses[0].partition_responses[0].base_offset == 1
    assert loop.time() - began >= 0.05


async def test_one_partition_s_batch_is_refused_and_the_others_are_not(
    broker: Broker, client: Client
) -> None:
    await create_topic(client, "t", partitions=2)
    broker.faults.refuse_batch("t", 1, ErrorCode.message_too_large)

    answers = [
        await client.call("Produce", 7, acks=-1, topic_data=produced("t", A_BATCH, A_BATCH))
        for _ in range(2)
    ]

    codes = [
        [each.error_code.value for each in a.responses[0].partition_responses] for a in answers
    ]
    assert codes == [[0, 10], [0, 0]]


async def test_cleared_faults_do_not_happen(broker: Broker, client: Client) -> None:
    await create_topic(client, "t")
    broker.faults.fail("Produce", ErrorCode.message_too_large, times=9)
    broker.faults.drop("Produce", times=9)
    broker.faults.refuse_batch("t", 0, ErrorCode.message_too_large, times=9)

    broker.faults.clear()

    assert (await produce(client, "t", A_BATCH)).error_code is ErrorCode.none


def test_a_fault_that_cannot_be_is_refused() -> None:
    faults = Faults()

    with pytest.raises(ValueError, match="there is no API 'Prodcue'"):
        faults.fail("Prodcue", 1)
    with pytest.raises(ValueError, match="times=0"):
        faults.drop("Produce", times=0)
    with pytest.raises(ValueError, match="'before' or 'after'"):
        faults.drop("Produce", when="during")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a delay of -1"):
        faults.delay("Produce", seconds=-1)
    with pytest.raises(ValueError, match="9999"):
        faults.fail("Produce", 9999)
