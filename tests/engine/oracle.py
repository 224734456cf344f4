"""What goes through the counting application of the fault tests, and what has to come out.

`Load` publishes events; the checks compare what is on the topics, in the changelogs and in the
stores with a computation of their own over the same events.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.state.store import Store
from streamapp.state.windowed import parse_pane_key
from tests.brokers import BrokerUnderTest
from tests.engine.jobs import WINDOW, Event
from tests.engine.workers import Cluster, partitions_of, produce, read_all, read_table

__all__ = [
    "Ledger",
    "Load",
    "check_ledger",
    "check_newest_stores",
    "check_outputs",
    "check_state",
    "check_stores",
    "counted",
    "decode",
    "make_events",
    "read_store",
    "sent",
]

#: Seconds between two bursts of events.
PACE = 0.05
START = 1_700_000_000_000
KEYS = [f"{letter}{number}" for letter in "abc" for number in range(8)]


def make_events(count: int, seed: int, first: int = 0) -> list[Event]:
    """Events in order of time, a few milliseconds apart."""
    chooser = random.Random(seed)
    return [Event(n, chooser.choice(KEYS), START + n * 25) for n in range(first, first + count)]


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


async def counted(kafka: BrokerUnderTest) -> int:
    """How many events have come through to the end, behind the `key_by`."""
    letters = await read_table(
        kafka.bootstrap, f"{kafka.prefix}app-{kafka.prefix}letters-changelog"
    )
    return sum(decode(letters).values())


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


async def check_outputs(kafka: BrokerUnderTest, events: list[Event]) -> None:
    """One output for each event, with the total that its key had by then."""
    output = await sent(kafka)
    assert sorted(record["n"] for record in output) == list(range(len(events)))
    totals: Counter[str] = Counter()
    expected = {}
    for event in events:
        totals[event.key] += 1
        expected[event.n] = totals[event.key]
    assert {record["n"]: record["total"] for record in output} == expected


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


async def check_newest_stores(kafka: BrokerUnderTest, state: Path) -> None:
    """Of each task, the store that is furthest holds the last checkpoint and exactly its tables."""
    app = f"{kafka.prefix}app"
    tables = {"count": ("totals", "counts"), "count_letters": ("letters",)}
    for topology, names in tables.items():
        markers = await latest_by_partition(kafka.bootstrap, f"{app}-{topology}-checkpoint")
        for partition, records in markers.items():
            sequence = msgspec.json.decode(records[b"checkpoint"])["sequence"]
            paths = (state / app).glob(f"*/{topology}/{partition}")
            newest = max(map(open_store, paths), key=lambda found: found[0])
            assert newest[0] == sequence, f"{topology}/{partition}: {newest[0]}, not {sequence}"
            for name in names:
                table = f"{kafka.prefix}{name}"
                logged = await latest_by_partition(kafka.bootstrap, f"{app}-{table}-changelog")
                prefix = table.encode() + b"\0"
                held = {k[len(prefix) :]: v for k, v in newest[1].items() if k.startswith(prefix)}
                assert held == logged.get(partition, {}), f"{topology}/{partition}, table {table}"


def open_store(path: Path) -> tuple[int, dict[bytes, bytes]]:
    """The sequence of the last checkpoint that a store holds, and all of its pairs."""
    database = Store.read_only(path)
    pairs = dict(database.items())
    database.close()
    progress = pairs.get(b"\0progress")
    return (msgspec.json.decode(progress)["marker"]["sequence"] if progress else 0), pairs


async def latest_by_partition(bootstrap: str, topic: str) -> dict[int, dict[bytes, bytes]]:
    """The last value of each key of each partition, tombstones taken off."""
    latest: dict[int, dict[bytes, bytes]] = {}
    for record in await read_all(bootstrap, topic):
        found = latest.setdefault(record.partition, {})
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = record.value
    return latest


async def check_ledger(kafka: BrokerUnderTest, topology: str) -> int:
    """Ranges follow each other without gap or overlap, and sequences too; how many there are."""
    entries = [
        msgspec.json.decode(record.value)
        for record in await read_all(kafka.bootstrap, f"{kafka.prefix}app-{topology}-ledger")
    ]
    counted = "offsets" if any(entry["kind"] == "offsets" for entry in entries) else "checkpoint"
    until: dict[tuple[str, int], int] = {}
    sequences: dict[int, int] = {}
    for entry in entries:
        task = entry["partition"]
        assert entry["sequence"] == sequences.get(task, 0) + 1, entry
        sequences[task] = entry["sequence"]
        for batch in entry["batches"] if entry["kind"] == counted else ():
            place = (batch["topic"], batch["partition"])
            assert batch["from"] == until.get(place, 0), entry
            until[place] = batch["until"]
    return len(entries)
