"""Batches in SQLite: each once, whoever writes it, and nothing of one that failed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamapp.errors import SinkError
from streamapp.sinks import SqliteSink
from tests.sinks.batches import batch_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.db"


@pytest.fixture
async def sink(path: Path) -> AsyncIterator[SqliteSink]:
    opened = SqliteSink(path, "orders")
    yield opened
    await opened.close()


def insert(*values: int) -> Any:
    def work(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER)")
        db.executemany("INSERT INTO rows VALUES (?)", [(value,) for value in values])

    return work


def read(path: Path, query: str = "SELECT n FROM rows ORDER BY n") -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [row if len(row) > 1 else row[0] for row in database.execute(query)]


async def test_a_batch_is_written_once(sink: SqliteSink, path: Path) -> None:
    assert await sink.write(batch_of(0, 3), insert(1, 2))
    assert not await sink.write(batch_of(0, 3), insert(1, 2))
    assert await sink.write(batch_of(3, 5), insert(3))

    assert read(path) == [1, 2, 3]


async def test_one_row_a_partition_is_remembered(sink: SqliteSink, path: Path) -> None:
    other = SqliteSink(path, "copies")
    for begin in range(3):
        await sink.write(batch_of(begin, begin + 1), insert())
        await sink.write(batch_of(begin, begin + 1, partition=1), insert())
        await other.write(batch_of(begin, begin + 1), insert())
    await other.close()

    assert read(path, "SELECT * FROM streamapp_batches ORDER BY 1, 3") == [
        ("copies", "orders", 0, 2, 3),
        ("orders", "orders", 0, 2, 3),
        ("orders", "orders", 1, 2, 3),
    ]


async def test_of_a_batch_that_fails_nothing_is_written(sink: SqliteSink, path: Path) -> None:
    await sink.write(batch_of(0, 3), insert(1))

    def fail(db: sqlite3.Connection) -> None:
        insert(2)(db)
        raise LookupError("no such customer")

    with pytest.raises(LookupError):
        await sink.write(batch_of(3, 5), fail)

    assert read(path) == [1]
    assert await sink.write(batch_of(3, 5), insert(2))
    assert read(path) == [1, 2]


@pytest.mark.parametrize("found", [(0, 2), (1, 3), (2, 4), (0, 5)])
async def test_a_batch_that_overlaps_another_is_refused(
    sink: SqliteSink, path: Path, found: tuple[int, int]
) -> None:
    await sink.write(batch_of(0, 3), insert(1))

    with pytest.raises(SinkError, match=r"comes after orders:0:0-3, which the database has"):
        await sink.write(batch_of(*found), insert(2))

    assert read(path) == [1]


async def test_it_is_remembered_by_the_database_and_not_by_the_process(path: Path) -> None:
    for expected in (True, False):
        sink = SqliteSink(path, "orders")
        assert await sink.write(batch_of(0, 3), insert(1)) is expected
        await sink.close()

    assert read(path) == [1]


async def test_of_two_that_write_a_batch_at_one_moment_one_does(path: Path) -> None:
    first, second = SqliteSink(path, "orders"), SqliteSink(path, "orders")
    inside, go_on = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        insert(1)(db)
        inside.set()
        assert go_on.wait(30)

    writing = asyncio.create_task(first.write(batch_of(0, 3), slow))
    assert await asyncio.to_thread(inside.wait, 30)
    waiting = asyncio.create_task(second.write(batch_of(0, 3), insert(1)))
    go_on.set()

    assert [await writing, await waiting] == [True, False]
    assert read(path) == [1]
    await first.close()
    await second.close()


async def test_a_directory_that_is_not_there_is_an_error_and_no_more(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "missing" / "rows.db", "orders")

    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await sink.write(batch_of(0, 3), insert(1))

    (tmp_path / "missing").mkdir()
    assert await sink.write(batch_of(0, 3), insert(1))
    await sink.close()
