"""What a broker still knows after `kill -9`, and what its clients notice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import OffsetAndMetadata, TopicPartition
from aiokafka.errors import ProducerFenced

from tests.brokers import BrokerUnderTest, Kind
from tests.conformance.clients import (
    all_stable,
    committed_offset,
    consumer,
    producer,
    values,
    write,
)
from tests.embedded import EmbeddedProcess
from tests.kafka import KafkaServer
from tests.polling import eventually

pytestmark = pytest.mark.slow

Mortal = EmbeddedProcess | KafkaServer


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("embedded", marks=pytest.mark.broker),
        pytest.param("apache", marks=[pytest.mark.broker, pytest.mark.kafka]),
    ],
)
def mortal(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mortal]:
    """A broker on a port and a data directory of its own, which tests may kill and start."""
    directory: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        with EmbeddedProcess(directory / "data") as broker:
            yield broker
    else:
        request.getfixturevalue("apache_installed")
        with KafkaServer(directory) as server:
            yield server


@pytest.fixture
def kafka(mortal: Mortal, prefix: str) -> BrokerUnderTest:
    """The mortal broker, as the other tests know theirs."""
    kind: Kind = "embedded" if isinstance(mortal, EmbeddedProcess) else "apache"
    return BrokerUnderTest(mortal.bootstrap, kind, prefix)


async def reborn(mortal: Mortal) -> None:
    """Kill the broker and start it again; this loop's clients see it come and go."""
    mortal.kill()
    await asyncio.to_thread(mortal.start)


async def test_acknowledged_records_are_still_there(mortal: Mortal, kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"%d" % number for number in range(100)])

    await reborn(mortal)

    assert await values(kafka, topic) == [b"%d" % number for number in range(100)]


async def test_committed_transactions_are_still_there(
    mortal: Mortal, kafka: BrokerUnderTest
) -> None:
    topic = await kafka.create_topic("t")
    group = f"{kafka.prefix}group"
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"committed")
        await client.send_offsets_to_transaction(
            {TopicPartition(topic, 0): OffsetAndMetadata(7, "")}, group
        )
        await client.commit_transaction()

    await reborn(mortal)

    await all_stable(kafka, topic)
    assert await values(kafka, topic) == [b"committed"]
    assert await eventually(lambda: committed_offset(kafka, group, topic)) == 7


async def test_an_open_transaction_is_still_its_owners(
    mortal: Mortal, kafka: BrokerUnderTest
) -> None:
    topic = await kafka.create_topic("t")
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"before")

        await reborn(mortal)

        await client.send_and_wait(topic, b"after")
        await client.commit_transaction()

    await all_stable(kafka, topic)
    assert await values(kafka, topic) == [b"before", b"after"]


async def test_an_open_transaction_is_aborted_for_the_next_owner(
    mortal: Mortal, kafka: BrokerUnderTest
) -> None:
    topic = await kafka.create_topic("t")
    async with producer(kafka, transactional_id=f"{kafka.prefix}id") as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"abandoned")

        await reborn(mortal)

        async with producer(kafka, transactional_id=f"{kafka.prefix}id"):
            await all_stable(kafka, topic)
            assert await values(kafka, topic) == []
        with pytest.raises(ProducerFenced):
            await client.commit_transaction()


async def test_an_idempotent_producer_repeats_nothing(
    mortal: Mortal, kafka: BrokerUnderTest
) -> None:
    topic = await kafka.create_topic("t")
    sent = [b"%d" % number for number in range(2000)]
    restarting: asyncio.Task[None] | None = None
    async with producer(kafka, enable_idempotence=True, linger_ms=2) as client:
        deliveries = []
        for number, value in enumerate(sent):
            deliveries.append(await client.send(topic, value, partition=0))
            if number == 500:
                await deliveries[0]
                restarting = asyncio.create_task(reborn(mortal))
        await asyncio.gather(*deliveries)
        assert restarting is not None
        await restarting

    assert await values(kafka, topic) == sent


async def test_a_group_goes_on(mortal: Mortal, kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"0", b"1"])
    async with consumer(kafka, group_id=f"{kafka.prefix}group") as client:
        client.subscribe([topic])
        assert (await client.getone()).value == b"0"
        await client.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "")})

        await reborn(mortal)

        await write(kafka, topic, [b"2"])
        assert (await client.getone()).value == b"1"
        assert (await client.getone()).value == b"2"
    assert await committed_offset(kafka, f"{kafka.prefix}group", topic) == 1
