"""The stack's services as processes, on Apache Kafka: killed, started again, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.sample_logs import generate as generate_log
from streamapp.sample_tweets import Trend as Planted
from streamapp.sample_tweets import generate
from streamapp.tweets import Trends, decode_tweet
from tests.agents.test_trends import ByHand
from tests.brokers import admin_client
from tests.kafka import KafkaServer
from tests.kafka.server import KafkaCluster
from tests.polling import eventually
from tests.stack.compose import Stack

pytestmark = [pytest.mark.broker, pytest.mark.kafka, pytest.mark.slow]

LINES, TWEETS = 2_000, 3_000
PLANTED = Planted("eclipse2026")


@pytest.fixture
def kafka(tmp_path: Path, apache_installed: None) -> Iterator[str]:
    """A broker of the test's own: the services use the names of the application."""
    with KafkaServer(tmp_path / "kafka") as server:
        yield server.bootstrap


async def read_committed(bootstrap: str, topic: str) -> list[tuple[bytes | None, bytes]]:
    """What a read-committed consumer finds in a topic, from its beginning to its end."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, partition) for partition in range(4)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[tuple[bytes | None, bytes]] = []
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [(record.key, record.value) for record in records]
            if all([await consumer.position(p) >= ends[p] for p in partitions]):
                return found
    finally:
        await consumer.stop()


@pytest.mark.timeout(400)
async def test_killed_and_started_again_the_stack_loses_and_repeats_nothing(
    kafka: str, tmp_path: Path
) -> None:
    with Stack(kafka, tmp_path, LINES_A_SECOND="200", TWEETS_A_SECOND="250") as stack:
        lines = list(generate_log(LINES, 5))
        found = list(generate(TWEETS, 5, rate=2.0, trend=PLANTED))
        (stack.samples / "error.log").write_bytes(b"\n".join(lines) + b"\n")
        encoded = [msgspec.json.encode(tweet) + b"\n" for tweet in found]
        (stack.samples / "tweets.jsonl").write_bytes(b"".join(encoded))

        stack["prepare"].start()
        assert await asyncio.to_thread(stack["prepare"].wait) == 0
        others = [service for name, service in stack.services.items() if name != "prepare"]
        for service in others:
            service.start()

        async def published(topic: str, least: int) -> bool:
            for service in others:
                service.check()
            return len(await read_committed(kafka, topic)) >= least

        await eventually(lambda: published("tweets", TWEETS // 3))
        for name in ("worker-ada", "ingest-tweets"):
            stack[name].kill()
        for name in ("worker-ada", "ingest-tweets"):
            stack[name].start()
        await eventually(lambda: published("tweets", TWEETS))
        await eventually(lambda: published("log-lines", LINES))

        expected = ByHand(found)
        last_whole = max(decode_tweet(raw).time for raw in encoded) - 31_000
        wanted = {key: n for key, n in expected.tweets.items() if key[1] <= last_whole}

        async def ranked() -> dict[tuple[str, int], Trends] | None:
            for service in others:
                service.check()
            raw = [value for _, value in await read_committed(kafka, "trends")]
            trends = [msgspec.json.decode(value, type=Trends) for value in raw]
            by_window = {(each.scope, each.end): each for each in trends}
            assert len(by_window) == len(trends), "a window of a scope is published once"
            return by_window if wanted.keys() <= by_window.keys() else None

        trends = await eventually(ranked, within=120)

    ids = Counter(decode_tweet(value).id for _, value in await read_committed(kafka, "tweets"))
    assert ids == Counter(tweet["data"]["id"] for tweet in found)
    assert Counter(v for _, v in await read_committed(kafka, "log-lines")) == Counter(lines)
    assert {key: trends[key].tweets for key in wanted} == wanted
    assert any(each.rising and each.rising[0].tag == PLANTED.tag for each in trends.values())
    assert await read_committed(kafka, "error-windows")


@pytest.mark.timeout(300)
async def test_on_three_brokers_every_topic_has_three_copies(
    tmp_path: Path, apache_installed: None
) -> None:
    with (
        KafkaCluster(tmp_path / "kafka", heap="256m") as cluster,
        Stack(cluster.bootstrap, tmp_path) as stack,
    ):
        stack["prepare"].start()
        assert await asyncio.to_thread(stack["prepare"].wait) == 0
        stack["worker-ada"].start()

        async def made() -> bool:
            stack["worker-ada"].check()
            async with admin_client(cluster.bootstrap) as admin:
                names = [name for name in await admin.list_topics() if not name.startswith("_")]
                found = await admin.describe_topics(names)
            copies = {len(part["replicas"]) for topic in found for part in topic["partitions"]}
            assert copies == {3}
            return {"tweets", "log-lines", "trends", "streamapp-tag_counts-changelog"} <= {*names}

        await eventually(made, within=120)
