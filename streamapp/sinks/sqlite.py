"""Batches in an SQLite database, each once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streamapp.engine.batch import Batch
from streamapp.sinks.latest import CREATE, Latest

__all__ = ["SqliteSink"]


class SqliteSink:
    """Writes batches to an SQLite database, in a transaction that remembers the batch's id.

        rows = SqliteSink("orders.db", "orders")

        @app.foreach_batch(orders)
        async def keep(batch: Batch) -> None:
            await rows.write(batch, lambda db: db.executemany("INSERT INTO …", batch.items()))

    The table `streamapp_batches` holds the id, a row a partition. The database is opened by the first
    batch, in a thread of its own, so the event loop does not wait for the disk.

    Arguments:
        name: whose batches they are, in `streamapp_batches`: a name for each `foreach_batch` that
            writes to the database.
        timeout: how long to wait for another process that writes, in seconds.
    """

    def __init__(self, path: str | Path, name: str, *, timeout: float = 30.0) -> None:
        self._path = path
        self._name = name
        self._timeout = timeout
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def write(self, batch: Batch, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Call `work` with the connection, in a transaction; return `False` when the batch is there.

        `work` is called in the sink's thread; it neither commits nor rolls back.

        Raises:
            SinkError: the database has a batch that comes after this one.
            sqlite3.Error: what the database says; nothing was written. So does whatever `work` raises.
        """
        # A batch is decoded on first use, which is not the thread's business.
        batch.values  # noqa: B018
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite {self._name}")
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._write, batch, work
        )

    def _write(self, batch: Batch, work: Callable[[sqlite3.Connection], object]) -> bool:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        place = (self._name, batch.topic, batch.partition)
        # Immediate: of two workers that write the same batch, one waits before it looks.
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = connection.execute(
                "SELECT from_offset, until_offset FROM streamapp_batches"
                ' WHERE name = ? AND topic = ? AND "partition" = ?',
                place,
            ).fetchone()
            is_new = found is None or not Latest(*found).has(batch)
            if is_new:
                work(connection)
                connection.execute(
                    "INSERT OR REPLACE INTO streamapp_batches VALUES (?, ?, ?, ?, ?)",
                    (*place, batch.from_offset, batch.until_offset),
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return is_new

    def _open(self) -> sqlite3.Connection:
        # Transactions are begun and ended here, not by the module.
        connection = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode the default of some builds may lose the last commits in a power failure.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(CREATE)
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Close the database, after what is being written, and end its thread; a batch opens it again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
