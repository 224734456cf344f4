"""An application whose batches go to a database, run as a real worker: `faust -A tests.sinks.outside worker`.

It is configured by the environment. Rows have no unique key, so that one which is written twice is seen.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import msgspec

from streamapp import App, Batch
from streamapp.sinks import PostgresSink, SqliteSink
from tests.engine.jobs import Event

__all__ = ["CREATE", "build"]

CREATE = "CREATE TABLE IF NOT EXISTS rows (n BIGINT, key TEXT, batch TEXT)"


def build(
    prefix: str, bootstrap: str, guarantee: str, state: str, place: str, presented: Path
) -> App:
    """Declare the application under a prefix of names.

    Arguments:
        place: the database: a DSN of PostgreSQL, or a path.
        presented: a file to which the id and the serial numbers of each batch that the function was given
            are appended, whatever becomes of it.
    """
    default_session = 6.0 if os.environ.get("KAFKA_BOOTSTRAP") else 2.0
    app = App(
        f"{prefix}app",
        broker=f"kafka://{bootstrap}",
        processing_guarantee=guarantee,
        state_dir=state,
        autodiscover=False,
        web_enabled=False,
        topic_partitions=4,
        engine={"session_timeout": default_session, "heartbeat_interval": 0.5, "replication": 1},
    )
    events = app.topic(f"{prefix}in", value_type=Event, partitions=4)

    async def keep_in_sqlite(sink: SqliteSink, batch: Batch) -> None:
        def insert(db: Any) -> None:
            db.execute(CREATE)
            db.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows(batch))

        await sink.write(batch, insert)

    async def keep_in_postgres(sink: PostgresSink, batch: Batch) -> None:
        await sink.write(
            batch, lambda db: db.executemany("INSERT INTO rows VALUES ($1, $2, $3)", rows(batch))
        )

    sink: Any
    if place.startswith("postgresql:"):
        sink, keep_in = PostgresSink(place, prefix), keep_in_postgres
    else:
        sink, keep_in = SqliteSink(place, prefix), keep_in_sqlite

    # Each process cuts otherwise: what comes again is the same for no other reason than the intent.
    @app.foreach_batch(events, within=0.02, max_records=random.randrange(5, 40))
    async def keep(batch: Batch) -> None:
        # Whoever was killed in the middle of a line has none of ours behind it.
        line = b"\n%b\n" % msgspec.json.encode([batch.id, [event.n for event in batch]])
        with presented.open("ab", buffering=0) as file:
            file.write(line)
        await keep_in(sink, batch)

    return app


def rows(batch: Batch) -> list[tuple[int, str, str]]:
    """What is written of a batch."""
    return [(event.n, event.key, batch.id) for event in batch]


if "STREAMAPP_TEST_PLACE" in os.environ:
    app = build(
        os.environ["STREAMAPP_TEST_PREFIX"],
        os.environ["STREAMAPP_TEST_BOOTSTRAP"],
        os.environ["STREAMAPP_TEST_GUARANTEE"],
        os.environ["STREAMAPP_TEST_STATE"],
        os.environ["STREAMAPP_TEST_PLACE"],
        Path(os.environ["STREAMAPP_TEST_PRESENTED"]),
    )
