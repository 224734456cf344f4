"""Batches in PostgreSQL: each once, whoever writes it, also when the server goes away."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from streamapp.errors import ConfigurationError, SinkError
from streamapp.sinks import PostgresSink
from tests.polling import eventually
from tests.sinks.batches import batch_of
from tests.sinks.postgres import Postgres


@pytest.fixture
async def dsn(postgres: Postgres) -> str:
    """A schema of the test's own."""
    schema = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.rows (n INTEGER)")
    await connection.close()
    return f"{postgres.dsn}?search_path={schema}"


@pytest.fixture
async def sink(dsn: str) -> AsyncIterator[PostgresSink]:
    opened = PostgresSink(dsn, "orders")
    yield opened
    await opened.close()


def insert(*values: int) -> Any:
    return lambda db: db.executemany("INSERT INTO rows VALUES ($1)", [(value,) for value in values])


async def read(dsn: str, query: str = "SELECT n FROM rows ORDER BY n") -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(query)
    finally:
        await connection.close()
    return [tuple(row) if len(row) > 1 else row[0] for row in rows]


async def test_a_batch_is_written_once(sink: PostgresSink, dsn: str) -> None:
    assert await sink.write(batch_of(0, 3), insert(1, 2))
    assert not await sink.write(batch_of(0, 3), insert(1, 2))
    assert await sink.write(batch_of(3, 5), insert(3))

    assert await read(dsn) == [1, 2, 3]
    assert await read(dsn, "SELECT * FROM streamapp_batches") == [("orders", "orders", 0, 3, 5)]


async def test_a_first_batch_that_does_not_begin_at_zero_is_written(
    sink: PostgresSink, dsn: str
) -> None:
    assert await sink.write(batch_of(70, 90), insert(1))
    assert not await sink.write(batch_of(70, 90), insert(1))

    assert await read(dsn) == [1]


async def test_of_a_batch_that_fails_nothing_is_written(sink: PostgresSink, dsn: str) -> None:
    async def fail(db: Any) -> None:
        await insert(2)(db)
        raise LookupError("no such customer")

    with pytest.raises(LookupError):
        await sink.write(batch_of(0, 3), fail)

    assert await read(dsn) == []
    assert await sink.write(batch_of(0, 3), insert(2))


async def test_a_batch_that_overlaps_another_is_refused(sink: PostgresSink, dsn: str) -> None:
    await sink.write(batch_of(0, 3), insert(1))

    with pytest.raises(SinkError, match=r"comes after orders:0:0-3, which the database has"):
        await sink.write(batch_of(2, 4), insert(2))

    assert await read(dsn) == [1]


async def test_of_two_that_write_a_batch_at_one_moment_one_does(dsn: str) -> None:
    sinks = [PostgresSink(dsn, "orders") for _ in range(4)]

    # The first batch of all: four make the table, and the row of the partition.
    first = await asyncio.gather(*(sink.write(batch_of(0, 3), insert(1)) for sink in sinks))
    second = await asyncio.gather(*(sink.write(batch_of(3, 5), insert(2)) for sink in sinks))

    assert sorted(first) == sorted(second) == [False, False, False, True]
    assert await read(dsn) == [1, 2]
    for sink in sinks:
        await sink.close()


async def test_partitions_are_written_side_by_side(dsn: str) -> None:
    sink = PostgresSink(dsn, "orders")
    both = asyncio.Barrier(2)

    def meet(value: int) -> Any:
        async def work(db: Any) -> None:
            await both.wait()
            await insert(value)(db)

        return work

    async with asyncio.timeout(30):
        await asyncio.gather(
            sink.write(batch_of(0, 3), meet(1)), sink.write(batch_of(0, 3, partition=1), meet(2))
        )

    assert await read(dsn) == [1, 2]
    await sink.close()


async def test_a_worker_that_stalls_in_a_transaction_is_ended_by_the_server(dsn: str) -> None:
    stalled, other = PostgresSink(dsn, "orders", stalled=0.5), PostgresSink(dsn, "orders")
    never = asyncio.Event()

    async def stall(db: Any) -> None:
        await insert(1)(db)
        await never.wait()
        await insert(2)(db)

    writing = asyncio.create_task(stalled.write(batch_of(0, 3), stall))
    await eventually(lambda: read(dsn, "SELECT 1 FROM pg_locks WHERE relation = 'rows'::regclass"))
    async with asyncio.timeout(30):
        assert await other.write(batch_of(0, 3), insert(3))
    never.set()

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await writing
    assert await read(dsn) == [3]
    await stalled.close()
    await other.close()


async def test_a_server_that_comes_back_is_written_to_again(
    sink: PostgresSink, dsn: str, postgres: Postgres
) -> None:
    assert await sink.write(batch_of(0, 3), insert(1))
    await asyncio.to_thread(postgres.stop)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await sink.write(batch_of(3, 4), insert(2))
    await asyncio.to_thread(postgres.start)

    assert await sink.write(batch_of(3, 4), insert(2))
    assert await read(dsn) == [1, 2]


async def test_a_server_that_is_not_there_at_first_is_tried_again(postgres: Postgres) -> None:
    schema = f"test_{uuid.uuid4().hex}"
    sink = PostgresSink(f"{postgres.dsn}?search_path={schema}", "orders")
    # There is no schema to make the table in.
    with pytest.raises(asyncpg.PostgresError):
        await sink.write(batch_of(0, 3), insert())

    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.rows (n INTEGER)")
    await connection.close()

    assert await sink.write(batch_of(0, 3), insert(1))
    await sink.close()


async def test_without_asyncpg_it_says_what_to_install(
    sink: PostgresSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(ConfigurationError, match=r"pip install asyncpg"):
        await sink.write(batch_of(0, 3), insert(1))
