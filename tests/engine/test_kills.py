"""Workers killed with SIGKILL under load: what each guarantee promises is what is found."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.state.store import Store
from streamapp.state.windowed import parse_pane_key
from tests.brokers import BrokerUnderTest
from tests.engine.jobs import WINDOW, Event
from tests.engine.workers import Cluster, partition_of, partitions_of, produce, read_all, read_table
from tests.polling import eventually

#: Seconds between two bursts of events.
PACE = 0.05
START = 1_700_000_000_000
KEYS = [f"{letter}{number}" for letter in "abc" for number in range(8)]


def make_events(count: int, seed: int, first: int = 0) -> list[Event]:
    """Events in order of time, a few milliseconds apart."""
    chooser = random.Random(seed)
    return [Event(n, chooser.choice(KEYS), START + n * 25) for n in range(first, first + count)]


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


class Load:
    """Publishes events at a pace, in the background, for as long as the context is open."""

    def __init__(self, kafka: BrokerUnderTest, seed: int) -> None:
        self.events: list[Event] = []
        self._kafka = kafka
        self._seed = seed
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        await self._more(100)
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._enough.set()
        assert self._task is not None
        await self._task

    async def _go_on(self) -> None:
        while not self._enough.is_set():
            await self._more(30)
            await asyncio.sleep(PACE)

    async def _more(self, count: int) -> None:
        more = make_events(count, self._seed + len(self.events), first=len(self.events))
        self.events += more
        await produce(self._kafka, more)


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


class Ledger:
    """How many checkpoints the counting topology has committed."""

    def __init__(self, kafka: BrokerUnderTest) -> None:
        self._topic = f"{kafka.prefix}app-count-ledger"
        self._bootstrap = kafka.bootstrap
        self._partitions: list[TopicPartition] = []
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
        )

    async def __aenter__(self) -> Ledger:
        await self._consumer.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._consumer.stop()

    async def checkpoints(self) -> int:
        """Return a number that grows with every checkpoint."""
        if not self._partitions:
            self._partitions = await partitions_of(self._bootstrap, self._topic)
        ends = await self._consumer.end_offsets(self._partitions)
        return sum(ends.values())


async def moved(cluster: Cluster, ledger: Ledger, target: int) -> None:
    """Wait until some more batches are committed: the kill then comes in the middle of the work."""
    try:
        await eventually(lambda: reached(ledger, target))
    except AssertionError as error:
        tails = "\n".join(worker.tail() for worker in cluster.workers if worker.running)
        raise AssertionError(f"{error}\n{tails or cluster.workers[-1].tail()}") from None


async def reached(ledger: Ledger, target: int) -> bool:
    return await ledger.checkpoints() >= target


async def check_state(kafka: BrokerUnderTest, events: list[Event]) -> None:
    """Tables and changelogs are exactly what the events amount to."""
    app = f"{kafka.prefix}app"
    totals = await read_table(kafka.bootstrap, f"{app}-{kafka.prefix}totals-changelog")
    assert decode(totals) == Counter(event.key for event in events)
    letters = await read_table(kafka.bootstrap, f"{app}-{kafka.prefix}letters-changelog")
    assert decode(letters) == Counter(event.key[0] for event in events)
    counts = await read_table(kafka.bootstrap, f"{app}-{kafka.prefix}counts-changelog")
    windows = {
        (parse_pane_key(k)[0], parse_pane_key(k)[1].decode()): int(v) for k, v in counts.items()
    }
    final = await final_windows(kafka)
    assert not windows.keys() & final.keys()
    assert windows | final == window_counts(events)


def decode(table: dict[bytes, bytes]) -> dict[str, int]:
    return {key.decode(): msgspec.json.decode(value) for key, value in table.items()}


def window_counts(events: list[Event]) -> dict[tuple[int, str], int]:
    size = WINDOW * 1000
    return dict(Counter((event.time - event.time % size, event.key) for event in events))


async def final_windows(kafka: BrokerUnderTest) -> dict[tuple[int, str], int]:
    """What was sent of closed windows; one sent twice is an error."""
    found: dict[tuple[int, str], int] = {}
    for record in await read_all(kafka.bootstrap, kafka.topic("windows")):
        window: dict[str, Any] = msgspec.json.decode(record.value)
        place = (window["start"], window["key"])
        assert window["final"] and place not in found
        found[place] = window["value"]
    return found


async def sent(kafka: BrokerUnderTest) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(record.value)
        for record in await read_all(kafka.bootstrap, kafka.topic("out"))
    ]


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

    output = await sent(cluster.kafka)
    assert sorted(record["n"] for record in output) == list(range(len(events)))
    expected: Counter[str] = Counter()
    totals = {}
    for event in events:
        expected[event.key] += 1
        totals[event.n] = expected[event.key]
    assert {record["n"]: record["total"] for record in output} == totals
    await check_state(cluster.kafka, events)
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


def check_stores(cluster: Cluster, events: list[Event]) -> None:
    """The store that worker `a` has of each task holds the table as it is after the last batch."""
    totals: Counter[str] = Counter()
    found = {}
    for event in events:
        totals[event.key] += 1
    root = cluster.state / f"{cluster.kafka.prefix}app" / "a" / "count"
    for partition in range(4):
        found |= read_store(root / str(partition), f"{cluster.kafka.prefix}totals")
    assert found == totals


def read_store(path: Path, table: str) -> dict[str, int]:
    """What a store holds of a plain table, read as another program would."""
    database = Store.read_only(path)
    prefix = table.encode() + b"\0"
    found = {
        key[len(prefix) :].decode(): msgspec.json.decode(value)
        for key, value in database.items(from_key=prefix)
        if key.startswith(prefix)
    }
    database.close()
    return found


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
