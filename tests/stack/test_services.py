"""The stack's services as processes, on Apache Kafka: killed, started again, and nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.receivers.sample import Kind, items
from streamapp.sample_tweets import START
from streamapp.tweets import Trends, decode_tweet
from tests.agents.test_trends import ByHand
from tests.brokers import admin_client
from tests.kafka import KafkaServer, fetch_jars
from tests.kafka.server import KafkaCluster
from tests.polling import eventually
from tests.stack.compose import Service, Stack, services
from tests.x_api.beside import serving

pytestmark = [pytest.mark.broker, pytest.mark.kafka, pytest.mark.slow]

LINES, TWEETS = 2_000, 1_000


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


@pytest.mark.timeout(500)
async def test_killed_and_started_again_the_stack_loses_and_repeats_nothing(
    kafka: str, tmp_path: Path
) -> None:
    with Stack(kafka, tmp_path, LINES_A_SECOND="200", TWEETS_A_SECOND="100") as stack:
        others = await started(stack)
        for service in others:
            await eventually(lambda: service.healthy, within=60)  # noqa: B023

        async def published(topic: str, least: int) -> bool:
            for service in others:
                service.check()
            return len(await read_committed(kafka, topic)) >= least

        await eventually(lambda: published("tweets", TWEETS))
        for name in ("worker-ada", "ingest-tweets", "ingest-log"):
            stack[name].kill()
        for name in ("worker-ada", "ingest-tweets", "ingest-log"):
            stack[name].start()
        await eventually(lambda: published("tweets", 3 * TWEETS))
        await eventually(lambda: published("log-lines", LINES))

        async def ranked() -> dict[tuple[str, int], int]:
            for service in others:
                service.check()
            raw = [value for _, value in await read_committed(kafka, "trends")]
            trends = [msgspec.json.decode(value, type=Trends) for value in raw]
            by_window = {(each.scope, each.end): each for each in trends}
            assert len(by_window) == len(trends), "a window of a scope is published once"
            return {window: each.tweets for window, each in by_window.items()}

        _, end = min(await eventually(ranked, within=200))
        found = [value for _, value in await read_committed(kafka, "tweets")]
        by_hand = ByHand(msgspec.json.decode(value) for value in found)
        wanted = {key: number for key, number in by_hand.tweets.items() if key[1] == end}

        async def all_ranked() -> bool:
            trends = await ranked()
            return {key: number for key, number in trends.items() if key[1] == end} == wanted

        await eventually(all_ranked)
        for service in others:
            await eventually(lambda: service.healthy, within=60)  # noqa: B023

    found.sort(key=lambda value: int(decode_tweet(value).id))
    written = (item for number in count() for item in items(Kind.TWEETS, number, START, 100.0))
    assert [decode_tweet(value).text for value in found] == [
        decode_tweet(item.value).text for item in islice(written, len(found))
    ]
    assert await read_committed(kafka, "error-windows")


@pytest.mark.timeout(300)
async def test_with_a_token_the_tweets_are_those_of_the_stream(kafka: str, tmp_path: Path) -> None:
    """The rule is one that every tweet fits, and the fake is where X would be."""
    with serving(tmp_path) as x:
        token = x.environment.pop("STREAMAPP_X_BEARER_TOKEN")
        with Stack(
            kafka,
            tmp_path,
            x.environment,
            X_RULE="-from_nobody",
            STREAMAPP_X_BEARER_TOKEN=token,
        ) as stack:
            service = stack["ingest-tweets"]
            await started(stack, "ingest-tweets")
            await eventually(lambda: service.healthy, within=60)

            async def there() -> bool:
                service.check()
                found = Counter([key for key, _ in await read_committed(kafka, "tweets")])
                assert set(found.values()) <= {1}
                ids = {(key or b"").decode() for key in found}
                return x.fake.done.is_set() and ids == x.fake.searchable()

            await eventually(there)
            service.kill()
            assert token not in service.log.read_text()


async def started(stack: Stack, *names: str) -> list[Service]:
    """Let the stack prepare, and start the services; all of them if none is named."""
    stack["prepare"].start()
    assert await asyncio.to_thread(stack["prepare"].wait) == 0
    others = [stack[name] for name in names or stack.services if name != "prepare"]
    for service in others:
        service.start()
    return others


async def test_the_health_check_of_kafka_asks_the_broker(
    tmp_path: Path, apache_installed: None
) -> None:
    """The script of the image runs this class."""
    check = services()["kafka"]["healthcheck"]
    _, script, option, address = check["test"]
    assert script.endswith("/kafka-broker-api-versions.sh")
    assert (option, address) == ("--bootstrap-server", "localhost:9092")
    command = ["java", "-Xmx128m", "-cp", f"{fetch_jars()}/*"]
    command.append("org.apache.kafka.tools.BrokerApiVersionsCommand")

    def healthy(server: KafkaServer) -> bool:
        try:
            done = subprocess.run(
                [*command, option, server.bootstrap],
                capture_output=True,
                timeout=float(check["timeout"].removesuffix("s")),
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    with KafkaServer(tmp_path / "kafka") as server:
        await eventually(lambda: asyncio.to_thread(healthy, server), within=60)
        server.kill()
        assert not await asyncio.to_thread(healthy, server)


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
