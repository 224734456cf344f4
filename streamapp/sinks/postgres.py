"""Batches in a PostgreSQL database, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from streamapp.engine.batch import Batch
from streamapp.errors import ConfigurationError
from streamapp.sinks.latest import CREATE, Latest

if TYPE_CHECKING:
    import asyncpg

__all__ = ["PostgresSink"]

#: Of the lock under which the table is made: two that make it at one moment would collide.
_LOCK = 0x73747265616D


class PostgresSink:
    """Writes batches to PostgreSQL, in a transaction that remembers the batch's id.

        rows = PostgresSink("postgresql://localhost/shop", "orders")

        @app.foreach_batch(orders)
        async def keep(batch: Batch) -> None:
            await rows.write(batch, lambda db: db.executemany("INSERT INTO …", [*batch.items()]))

    The table `streamapp_batches` holds the id, a row a partition. The first batch connects; each task
    that writes has a connection, up to `connections`. Needs asyncpg, which the extra `postgres` has.

    Arguments:
        dsn: where the database is, as libpq has it.
        name: whose batches they are, in `streamapp_batches`: a name for each `foreach_batch` that
            writes to the database.
        stalled: seconds after which the server ends a transaction in which nothing is done: it may be
            that of a worker which is stopped, and another one waits for it.
        options: more arguments of `asyncpg.create_pool`.
    """

    def __init__(
        self, dsn: str, name: str, *, connections: int = 10, stalled: float = 60.0, **options: Any
    ) -> None:
        self._name = name
        self._options = {
            "dsn": dsn,
            "min_size": 0,
            "max_size": connections,
            "server_settings": {"idle_in_transaction_session_timeout": str(round(stalled * 1000))},
            **options,
        }
        self._opening: asyncio.Task[asyncpg.Pool] | None = None

    async def write(
        self, batch: Batch, work: Callable[[asyncpg.Connection], Awaitable[object]]
    ) -> bool:
        """Call `work` with a connection, in a transaction; return `False` when the batch is there.

        Raises:
            SinkError: the database has a batch that comes after this one.
            asyncpg.PostgresError, OSError: what the database or the network says; unless the
                connection was lost in the commit, nothing was written. So does whatever `work` raises.
        """
        place = (self._name, batch.topic, batch.partition)
        pool = await self._pool()
        async with pool.acquire() as connection, connection.transaction():
            # Of two workers that write the same batch, one waits here until the other has ended.
            await connection.execute(
                "INSERT INTO streamapp_batches VALUES ($1, $2, $3, $4, $4) ON CONFLICT DO NOTHING",
                *place,
                batch.from_offset,
            )
            found = await connection.fetchrow(
                "SELECT from_offset, until_offset FROM streamapp_batches"
                ' WHERE name = $1 AND topic = $2 AND "partition" = $3 FOR UPDATE',
                *place,
            )
            if Latest(*found).has(batch):
                return False
            await work(connection)
            await connection.execute(
                "UPDATE streamapp_batches SET from_offset = $4, until_offset = $5"
                ' WHERE name = $1 AND topic = $2 AND "partition" = $3',
                *place,
                batch.from_offset,
                batch.until_offset,
            )
        return True

    async def _pool(self) -> asyncpg.Pool:
        """Return the pool, opened by whoever comes first; if that fails, by the next one again."""
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception())):
            opening = self._opening = asyncio.get_running_loop().create_task(self._open())
        return await asyncio.shield(opening)

    async def _open(self) -> asyncpg.Pool:
        try:
            import asyncpg
        except ImportError as error:
            raise ConfigurationError(
                "PostgresSink needs asyncpg: pip install asyncpg, or this package with the extra 'postgres'"
            ) from error
        pool = asyncpg.create_pool(**self._options)
        await pool
        try:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                await connection.execute(CREATE)
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def close(self) -> None:
        """Close the connections, after what is being written."""
        opening, self._opening = self._opening, None
        if opening is None:
            return
        await asyncio.wait({opening})
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().close()
