"""Workers killed with SIGKILL under load: what each guarantee promises is what is found."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamapp.state.store import Store
from tests.brokers import BrokerUnderTest
from tests.engine.jobs import Event
from tests.engine.oracle import (
    Ledger,
    Load,
    check_outputs,
    check_state,
    check_stores,
    decode,
    make_events,
    read_store,
    sent,
)
from tests.engine.workers import Cluster, partition_of, produce, read_all, read_table
from tests.polling import eventually


@pytest.fixture
def seed() -> int:
    """The seed of the test's chances, printed so that a failure can be run again."""
    chosen = int(os.environ.get("STREAMAPP_SEED") or random.randrange(10**9))
    print(f"STREAMAPP_SEED={chosen}")
    return chosen


@pytest.fixture
def cluster(
    kafka: BrokerUnderTest, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """Workers on the broker under test, killed at the end."""
    running = Cluster(kafka, getattr(request, "param", "exactly_once"), tmp_path)
    yield running
    running.stop()


async def run_with_kills(cluster: Cluster, kills: int, seed: int) -> list[Event]:
    """Publish events while workers are killed and started again; return the events."""
    kafka = cluster.kafka
    chooser = random.Random(seed)
    await kafka.create_topic("in", partitions=4)
    async with Ledger(kafka) as ledger:
        async with Load(kafka, seed) as load:
            workers = {"a": cluster.start(name="a"), "b": cluster.start(name="b")}
            for _ in range(kills):
                before = await ledger.checkpoints()
                await moved(cluster, ledger, before + chooser.randrange(1, 30))
                victim = chooser.choice(sorted(workers))
                workers[victim].kill()
                workers[victim] = cluster.start(name=victim)
        for worker in workers.values():
            worker.kill()
        events = load.events
    cluster.finish()
    return events


async def moved(cluster: Cluster, ledger: Ledger, target: int) -> None:
    """Wait until some more batches are committed: the kill then comes in the middle of the work."""
    try:
        await eventually(lambda: reached(ledger, target))
    except AssertionError as error:
        tails = "\n".join(worker.tail() for worker in cluster.workers if worker.running)
        raise AssertionError(f"{error}\n{tails or cluster.workers[-1].tail()}") from None


async def reached(ledger: Ledger, target: int) -> bool:
    return await ledger.checkpoints() >= target


def kills(few: int, many: int) -> list[Any]:
    """A few kills in every run of the tests, many in the longer one."""
    return [
        pytest.param(few, id=f"{few}-kills"),
        pytest.param(many, id=f"{many}-kills", marks=pytest.mark.slow),
    ]


@pytest.mark.parametrize("cluster", ["exactly_once"], indirect=True)
@pytest.mark.parametrize("times", kills(3, 20))
async def test_exactly_once_counts_each_record_once(
    cluster: Cluster, times: int, seed: int
) -> None:
    events = await run_with_kills(cluster, times, seed)

    await check_outputs(cluster.kafka, events)
    await check_state(cluster.kafka, events)
    check_stores(cluster, events)


@pytest.mark.parametrize("times", kills(3, 20))
async def test_exactly_once_holds_when_standbys_take_over(
    kafka: BrokerUnderTest, tmp_path: Path, times: int, seed: int
) -> None:
    cluster = Cluster(kafka, "exactly_once", tmp_path, STREAMAPP_TEST_STANDBYS="1")
    try:
        events = await run_with_kills(cluster, times, seed)
    finally:
        cluster.stop()
    await check_outputs(kafka, events)
    await check_state(kafka, events)
    check_stores(cluster, events)


@pytest.mark.parametrize("cluster", ["at_least_once"], indirect=True)
@pytest.mark.parametrize("times", kills(3, 20))
async def test_at_least_once_loses_nothing_and_its_state_is_exact(
    cluster: Cluster, times: int, seed: int
) -> None:
    events = await run_with_kills(cluster, times, seed)

    assert {record["n"] for record in await sent(cluster.kafka)} == set(range(len(events)))
    app = f"{cluster.kafka.prefix}app"
    letters = await read_table(
        cluster.kafka.bootstrap, f"{app}-{cluster.kafka.prefix}letters-changelog"
    )
    assert decode(letters) == Counter(event.key[0] for event in events)
    totals = await read_table(
        cluster.kafka.bootstrap, f"{app}-{cluster.kafka.prefix}totals-changelog"
    )
    assert decode(totals) == Counter(event.key for event in events)
    check_stores(cluster, events)


@pytest.mark.parametrize("cluster", ["at_most_once"], indirect=True)
@pytest.mark.parametrize("times", kills(3, 20))
async def test_at_most_once_repeats_nothing(cluster: Cluster, times: int, seed: int) -> None:
    events = await run_with_kills(cluster, times, seed)

    numbers = [record["n"] for record in await sent(cluster.kafka)]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) <= set(range(len(events)))
    app = f"{cluster.kafka.prefix}app"
    totals = decode(
        await read_table(cluster.kafka.bootstrap, f"{app}-{cluster.kafka.prefix}totals-changelog")
    )
    by_number = {event.n: event for event in events}
    assert totals == Counter(by_number[number].key for number in numbers)


@pytest.mark.parametrize(
    "point",
    [
        "checkpoint.processed",
        "checkpoint.before-commit",
        "checkpoint.after-commit",
        "checkpoint.before-store",
    ],
)
async def test_a_store_is_never_ahead_of_the_committed_transaction(
    cluster: Cluster, point: str, seed: int
) -> None:
    kafka = cluster.kafka
    await kafka.create_topic("in", partitions=4)
    events = make_events(800, seed)
    await produce(kafka, events)
    worker = cluster.start(name="a", fault=f"{point}:6")
    assert worker.wait() != 0

    committed = await committed_sources(kafka)
    by_partition: dict[int, list[Event]] = {p: [] for p in range(4)}
    for event in events:
        by_partition[partition_of(event.key)].append(event)
    root = cluster.state / f"{kafka.prefix}app" / "a" / "count"
    for partition in range(4):
        path = root / str(partition)
        if not path.exists():
            continue
        database = Store.read_only(path)
        raw = database.get(b"\0progress")
        database.close()
        progress = msgspec.json.decode(raw) if raw else {"marker": {"sources": {}}}
        offset = progress["marker"]["sources"].get(kafka.topic("in"), 0)
        assert offset <= committed.get(partition, 0)
        held = Counter(event.key for event in by_partition[partition][:offset])
        assert read_store(path, f"{kafka.prefix}totals") == held

    cluster.finish()
    assert sorted(record["n"] for record in await sent(kafka)) == list(range(len(events)))
    await check_state(kafka, events)


async def committed_sources(kafka: BrokerUnderTest) -> dict[int, int]:
    """The source offset of each task's last committed marker."""
    found: dict[int, int] = {}
    for record in await read_all(kafka.bootstrap, f"{kafka.prefix}app-count-checkpoint"):
        marker = msgspec.json.decode(record.value)
        found[record.partition] = marker["sources"].get(kafka.topic("in"), 0)
    return found
