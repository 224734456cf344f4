"""An application for the fault tests, run as a real worker: `faust -A tests.engine.jobs worker`.

It is configured by the environment, since it runs in a process of its own: it counts records by key
in a plain table and in tumbling windows, sends one record for each, and passes partial counts on
through a repartition topic to a second topology.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from streamapp import App, Batches, Count
from streamapp.engine.topic import Topic

__all__ = ["WINDOW", "Event", "Jobs", "build"]

#: The size of the windows, in seconds.
WINDOW = 10


class Event(msgspec.Struct):
    """What goes in: a serial number, a key, and when it was (milliseconds)."""

    n: int
    key: str
    time: int


class Seen(msgspec.Struct):
    """What comes out for each event: how many of its key there were with it."""

    n: int
    key: str
    total: int


class Jobs:
    """The application's parts, for tests that look at them."""

    def __init__(self, app: App, events: Topic, seen: Topic, windows: Topic) -> None:
        self.app = app
        self.events = events
        self.seen = seen
        self.windows = windows


def build(
    prefix: str,
    bootstrap: str,
    guarantee: str,
    state: str,
    partitions: int = 4,
    **engine: Any,
) -> Jobs:
    """Declare the application under a prefix of names, with settings of the engine."""
    # A broker that others set up takes no shorter one.
    default_session = 6.0 if os.environ.get("KAFKA_BOOTSTRAP") else 2.0
    app = App(
        f"{prefix}app",
        broker=f"kafka://{bootstrap}",
        processing_guarantee=guarantee,
        state_dir=state,
        autodiscover=False,
        web_enabled=False,
        topic_partitions=partitions,
        engine={
            "session_timeout": float(os.environ.get("STREAMAPP_TEST_SESSION", default_session)),
            "heartbeat_interval": 0.5,
            "replication": int(os.environ.get("STREAMAPP_TEST_REPLICATION", "1")),
            "idle_timeout": 600.0,
            "standby_replicas": int(os.environ.get("STREAMAPP_TEST_STANDBYS", "0")),
            **engine,
        },
    )
    events = app.topic(f"{prefix}in", value_type=Event, event_time="time", partitions=partitions)
    seen = app.topic(f"{prefix}out", value_type=Seen, key_type=str, partitions=partitions)
    windows = app.topic(f"{prefix}windows", partitions=partitions)
    totals = app.BatchTable(f"{prefix}totals", default=int, key_type=str)
    counts = (
        app.BatchTable(f"{prefix}counts", aggregate=Count(), key_type=str)
        .tumbling(WINDOW)
        .emit_final(windows)
    )
    by_letter = app.key_by("by-letter", aggregate=Count(), key_type=str)
    letters = app.BatchTable(f"{prefix}letters", default=int, key_type=str)

    @app.batch_agent(events, within=0.02, max_records=50)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for event in batch:
                totals[event.key] += 1
                counts[event.key] += 1
                by_letter.add(event.key[0])
                await seen.send(key=event.key, value=Seen(event.n, event.key, totals[event.key]))

    @app.batch_agent(by_letter, within=0.02)
    async def count_letters(batches: Batches) -> None:
        async for batch in batches:
            for letter, found in batch.items():
                letters[letter] += found

    return Jobs(app, events, seen, windows)


if "STREAMAPP_TEST_PREFIX" in os.environ:
    app = build(
        os.environ["STREAMAPP_TEST_PREFIX"],
        os.environ["STREAMAPP_TEST_BOOTSTRAP"],
        os.environ["STREAMAPP_TEST_GUARANTEE"],
        os.environ["STREAMAPP_TEST_STATE"],
        standby_replicas=int(os.environ.get("STREAMAPP_TEST_STANDBYS", "0")),
        snapshots=os.environ.get("STREAMAPP_TEST_SNAPSHOTS"),
        snapshot_interval=0.2,
    ).app
