"""Workers killed while they write to a database: each record has one row, each batch one id."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from tests.brokers import BrokerUnderTest
from tests.engine.jobs import Event
from tests.engine.oracle import Load, make_events
from tests.engine.workers import Cluster, produce, read_all
from tests.polling import eventually
from tests.sinks.outside import CREATE
from tests.sinks.postgres import Postgres

#: Where a worker dies: before and after each of the two commits, and around the call between them.
POINTS = [
    "intent.before-commit",
    "intent.after-commit",
    "foreach.called",
    "checkpoint.processed",
    "checkpoint.before-commit",
    "checkpoint.after-commit",
]


class Outside:
    """A database, and the workers that write to it.

    Attributes:
        rows: returns the serial number and the batch of each row.
    """

    def __init__(
        self,
        kafka: BrokerUnderTest,
        directory: Path,
        place: str,
        rows: Callable[[], Awaitable[Any]],
    ) -> None:
        self.kafka = kafka
        self.rows = rows
        self._presented = directory / "presented"
        self._presented.touch()
        self.cluster = Cluster(
            kafka,
            "exactly_once",
            directory,
            "tests.sinks.outside",
            STREAMAPP_TEST_PLACE=place,
            STREAMAPP_TEST_PRESENTED=str(self._presented),
        )

    def presented(self) -> list[tuple[str, list[int]]]:
        """What the function was given, as often as it was: ids, and the serial numbers in them."""
        found = []
        for line in self._presented.read_bytes().splitlines():
            # A line may be half: a worker writes it just now, or was killed when it did.
            with contextlib.suppress(msgspec.DecodeError):
                name, numbers = msgspec.json.decode(line)
                found.append((name, numbers))
        return found

    async def check(self, events: list[Event]) -> None:
        """Each event has one row; an id always had the same records; ranges meet and do not overlap."""
        rows = await self.rows()
        assert sorted(n for n, _ in rows) == [event.n for event in events]

        batches: dict[str, list[int]] = {}
        for name, numbers in self.presented():
            assert batches.setdefault(name, numbers) == numbers
        written = {
            name: sorted(n for n, of in rows if of == name) for name in {of for _, of in rows}
        }
        assert written == {name: sorted(numbers) for name, numbers in batches.items()}
        assert sum(map(len, batches.values())) == len(events)


@pytest.fixture(params=["sqlite", "postgres"])
async def outside(
    request: pytest.FixtureRequest, kafka: BrokerUnderTest, tmp_path: Path
) -> AsyncIterator[Outside]:
    if request.param == "sqlite":
        found = in_sqlite(kafka, tmp_path)
    else:
        found = await in_postgres(request.getfixturevalue("postgres"), kafka, tmp_path)
    yield found
    found.cluster.stop()


def in_sqlite(kafka: BrokerUnderTest, directory: Path) -> Outside:
    path = directory / "rows.db"

    async def rows() -> Any:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return database.execute("SELECT n, batch FROM rows").fetchall()

    return Outside(kafka, directory, str(path), rows)


async def in_postgres(server: Postgres, kafka: BrokerUnderTest, directory: Path) -> Outside:
    """A schema of the test's own in the server that tests share."""
    schema = kafka.prefix.replace("-", "_")
    dsn = f"{server.dsn}?search_path={schema}"

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def rows() -> Any:
        async with connected() as connection:
            return [tuple(row) for row in await connection.fetch("SELECT n, batch FROM rows")]

    async with connected() as connection:
        await connection.execute(f"CREATE SCHEMA {schema}; {CREATE}")
    return Outside(kafka, directory, dsn, rows)


@pytest.mark.parametrize("point", POINTS)
async def test_each_row_is_written_once_wherever_a_worker_dies(
    outside: Outside, point: str
) -> None:
    await outside.kafka.create_topic("in", partitions=4)
    events = make_events(400, seed=7)
    await produce(outside.kafka, events)
    worker = outside.cluster.start(name="a", fault=f"{point}:5")
    assert worker.wait() != 0

    outside.cluster.finish()

    await outside.check(events)


@pytest.mark.parametrize("point", ["intent.after-commit", "foreach.called"])
async def test_a_worker_that_stalls_and_wakes_writes_nothing_twice(
    outside: Outside, point: str
) -> None:
    await outside.kafka.create_topic("in", partitions=4)
    events = make_events(400, seed=7)
    await produce(outside.kafka, events)
    stalled = outside.cluster.start(name="a", fault=f"{point}:5:stop")
    await eventually(lambda: stalled.state == "T")
    successor = outside.cluster.start(name="b")
    # It has fenced the other one by then; SQLite may make it wait for that one's lock.
    await eventually(lambda: successor.said(" is open after ") >= 4)
    before = stalled.said("opens anew")
    stalled.signal(signal.SIGCONT)
    await eventually(lambda: stalled.said("opens anew") > before)

    async def all_written() -> bool:
        return len(await outside.rows()) == len(events)

    await eventually(all_written)

    await outside.check(events)
    assert stalled.running


@pytest.fixture
def seed() -> int:
    """The seed of the test's chances, printed so that a failure can be run again."""
    chosen = int(os.environ.get("STREAMAPP_SEED") or random.randrange(10**9))
    print(f"STREAMAPP_SEED={chosen}")
    return chosen


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
async def test_each_row_is_written_once_while_workers_are_killed(
    outside: Outside, kills: int, seed: int
) -> None:
    cluster, chooser = outside.cluster, random.Random(seed)
    await outside.kafka.create_topic("in", partitions=4)
    async with Load(outside.kafka, seed) as load:
        workers = {"a": cluster.start(name="a"), "b": cluster.start(name="b")}
        for _ in range(kills):
            # In the middle of the work: some batches later.
            target = len(outside.presented()) + chooser.randrange(1, 30)
            await eventually(lambda target=target: len(outside.presented()) >= target)
            victim = chooser.choice(sorted(workers))
            workers[victim].kill()
            workers[victim] = cluster.start(name=victim)
    for worker in workers.values():
        worker.kill()

    cluster.finish()

    await outside.check(load.events)
    # Intents are of batches: none was announced that is not in the ledger.
    intents = await read_all(outside.kafka.bootstrap, f"{outside.kafka.prefix}app-keep-intents")
    assert {record.key for record in intents} == {b"intent"}
