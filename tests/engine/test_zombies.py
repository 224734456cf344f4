"""Zombies: workers that are stopped past their session timeout, and continued when others have their tasks."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.brokers import BrokerUnderTest
from tests.engine.oracle import (
    check_ledger,
    check_newest_stores,
    check_outputs,
    check_state,
    make_events,
    sent,
)
from tests.engine.workers import Cluster, produce, read_all
from tests.polling import eventually

PARTITIONS = 4
EVENTS = 400


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once", "at_most_once"])
@pytest.mark.parametrize(
    "point",
    [
        "checkpoint.processed",
        "checkpoint.before-commit",
        "checkpoint.after-commit",
        "task.before-fence",
    ],
)
async def test_a_zombie_makes_nothing_visible_and_comes_back(
    kafka: BrokerUnderTest, tmp_path: Path, guarantee: str, point: str
) -> None:
    await kafka.create_topic("in", partitions=PARTITIONS)
    cluster = Cluster(kafka, guarantee, tmp_path)
    try:
        nth = 2 if point == "task.before-fence" else 6
        zombie = cluster.start(name="a", fault=f"{point}:{nth}:stop")
        events = make_events(EVENTS, seed=1)
        await produce(kafka, events)
        await eventually(lambda: zombie.state == "T")
        owner = cluster.start(name="b")
        more = make_events(EVENTS, seed=2, first=len(events))
        events += more
        await produce(kafka, more)
        await eventually(lambda: all_taken(kafka, len(events)))
        before = [record["n"] for record in await sent(kafka)]

        had = zombie.said("is open after")
        zombie.signal(signal.SIGCONT)
        # It is a member again when it has opened a task that it was given.
        await eventually(lambda: zombie.said("is open after") > had)
        more = make_events(EVENTS, seed=3, first=len(events))
        events += more
        await produce(kafka, more)
        await eventually(lambda: all_taken(kafka, len(events)))
        after = [record["n"] for record in await sent(kafka)]
        # What was finished before it came back stays as it is: nothing of it again, nothing new.
        assert Counter(n for n in after if n < 2 * EVENTS) == Counter(before)
        # A zombie that fences the owner makes it open anew; the rebalance that takes it back does not.
        assert owner.said("opens anew") <= 1, owner.tail()
        for worker in (zombie, owner):
            worker.signal(signal.SIGTERM)
        assert [worker.wait() for worker in (zombie, owner)] == [0, 0]
        if guarantee == "exactly_once":
            cluster.finish()  # what goes on to the second topology
    finally:
        cluster.stop()

    if guarantee == "exactly_once":
        await check_outputs(kafka, events)
        await check_state(kafka, events)
    await check_newest_stores(kafka, cluster.state)
    await check_ledger(kafka, "count")


async def all_taken(kafka: BrokerUnderTest, count: int) -> bool:
    """Whether all events are there, and each partition's last checkpoint covers its end.

    Not the group's offsets: at most once moves them before it processes.
    """
    until: dict[int, int] = {}
    for record in await read_all(kafka.bootstrap, f"{kafka.prefix}app-count-ledger"):
        entry = msgspec.json.decode(record.value)
        if entry["kind"] == "checkpoint":
            until |= {batch["partition"]: batch["until"] for batch in entry["batches"]}
    return sum(until.values()) == count
