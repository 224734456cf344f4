"""What is counted: keyed JSON events of about 200 bytes, the same ones for the same seed.

Users are drawn by Zipf's law with an exponent of 1.1, so a few of them make most of the events.
Event time is the records' timestamp and runs evenly through ten minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

__all__ = ["PARTITIONS", "TOPIC", "WINDOW", "Event", "Totals", "load"]

TOPIC = "events"
PARTITIONS = 4
#: The length of a window, in seconds.
WINDOW = 60
USERS = 10_000
EXPONENT = 1.1

_BEGIN = 1_767_225_600_000
_SPAN = 600_000
#: A producer's default: what consumers find in a busy topic.
_BATCH_BYTES = 16_384

#: Events by window start (milliseconds) and user.
Totals = Counter[tuple[int, str]]


class Event(msgspec.Struct):
    """What happened, as agents see it."""

    user: str
    kind: str
    page: str
    session: str
    agent: str
    amount: float
    sequence: int


def events(count: int, seed: int) -> Iterator[tuple[int, Event]]:
    """Yield events with their times, in milliseconds, in order of time."""
    draw = random.Random(seed)
    weights = itertools.accumulate(1 / rank**EXPONENT for rank in range(1, USERS + 1))
    names = [f"user-{rank:05d}" for rank in range(USERS)]
    users = draw.choices(names, cum_weights=list(weights), k=count)
    for number, user in enumerate(users):
        yield (
            _BEGIN + number * _SPAN // count,
            Event(
                user=user,
                kind=("view", "click", "search", "purchase")[number % 4],
                page=f"/catalogue/section-{number % 97:02d}/item-{number * 7919 % 10_007:05d}",
                session=f"{draw.getrandbits(128):032x}",
                agent=f"Mozilla/5.0 (X11; Linux x86_64) {number % 31}",
                amount=number % 10_000 / 100,
                sequence=number,
            ),
        )


async def load(bootstrap: str, count: int, seed: int) -> Totals:
    """Make the topic and publish the events; return what a count of them has to find."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics(
        [NewTopic(TOPIC, PARTITIONS, 1, topic_configs={"retention.ms": "-1"})]
    )
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=_BATCH_BYTES)
    await producer.start()
    encode = msgspec.json.Encoder().encode
    partition_of, partitions = DefaultPartitioner(), list(range(PARTITIONS))
    builders = {partition: producer.create_batch() for partition in partitions}
    flying: set[asyncio.Future[object]] = set()
    totals: Totals = Counter()

    async def submit(partition: int) -> None:
        builders[partition].close()
        flying.add(await producer.send_batch(builders[partition], TOPIC, partition=partition))
        builders[partition] = producer.create_batch()
        if len(flying) >= 100:
            done, pending = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            flying.clear()
            flying.update(pending)
            for delivered in done:
                delivered.result()

    try:
        for time, event in events(count, seed):
            key, value = event.user.encode(), encode(event)
            partition = partition_of(key, partitions, partitions)
            while builders[partition].append(timestamp=time, key=key, value=value) is None:
                await submit(partition)
            totals[time - time % (WINDOW * 1000), event.user] += 1
        for partition in partitions:
            await submit(partition)
        await asyncio.gather(*flying)
    finally:
        await producer.stop()
    return totals
