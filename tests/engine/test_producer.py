"""Letting go of a producer: nothing of it is left that tries again, or that somebody waits for."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from streamapp.broker import Broker
from streamapp.clients import discard
from tests.brokers import BrokerUnderTest
from tests.embedded import EmbeddedProcess
from tests.polling import eventually


def at_work() -> list[asyncio.Task[Any]]:
    """The tasks of aiokafka's sender."""
    names = ((task, getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks())
    return [task for task, name in names if name.startswith("Sender.")]


def unwritten(connection: Any) -> int:
    """How much a connection has to write still, when the sockets take no more, in bytes."""
    return int(connection._writer.transport.get_write_buffer_size())


async def test_what_a_discarded_producer_has_in_flight_does_not_outlive_it(
    embedded: Broker,
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "discard-")
    here, there = [await kafka.create_topic(name) for name in ("here", "there")]
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="discard")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(here, b"1")
    embedded.faults.delay("Produce", 5.0)
    embedded.faults.delay("AddPartitionsToTxn", 5.0)
    await producer.send(here, b"2")
    await producer.send(there, b"1")
    await eventually(lambda: len(at_work()) == 3)

    await discard(producer)
    assert at_work() == []


async def test_a_host_that_reads_nothing_more_does_not_hold_up_a_producer_that_is_let_go() -> None:
    """More than the sockets take is on its way to it."""
    with EmbeddedProcess() as broker:
        kafka = BrokerUnderTest(broker.bootstrap, "embedded", "frozen-")
        topic = await kafka.create_topic("out", partitions=16)
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap, max_request_size=1 << 24, max_batch_size=1 << 20
        )
        await producer.start()
        await producer.send_and_wait(topic, b"1")
        broker.freeze()
        for partition in range(16):
            await producer.send(topic, bytes(900_000), partition=partition)
        await eventually(lambda: len(at_work()) == 2)
        await eventually(lambda: any(map(unwritten, producer.client._conns.values())))
        async with asyncio.timeout(20):
            await discard(producer)
        assert at_work() == []
