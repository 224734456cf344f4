"""`python -m bench.reopen`: whether a task with much state goes back to work as fast as one with little.

A worker is killed and started again, its store there. Measured is the time to when the first new
batch is committed, from two moments: when it goes about to join the group, which looks at the stores
first, and when the group has given it its task. Behind that are the fence, the marker, the store and
the tail of the changelog; no part of it may hide in the other. What a store holds was written to it directly, all of it, before; a small and
a large one take turns on the same embedded broker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from bench.__main__ import broker, say
from streamapp import App, Batches
from streamapp.engine.engine import Engine
from streamapp.engine.group import Group
from streamapp.engine.marker import Marker, Progress, encode
from streamapp.state.store import Store, StoreMemory, TableWrites

TABLE = "counts"
#: From when it is measured.
JOIN, ASSIGNMENT = MOMENTS = ("join", "assignment")
_WORKER = "bench"
_CHUNK = 10_000


def name_of(keys: int) -> str:
    """Return the application that has so many keys."""
    return f"bench-{keys}"


def application(keys: int, bootstrap: str, state: Path) -> App:
    """Return an application that counts words in one task."""
    app = App(
        name_of(keys),
        broker=f"kafka://{bootstrap}",
        state_dir=state,
        worker_name=_WORKER,
        autodiscover=False,
        web_enabled=False,
        topic_partitions=1,
    )
    words = app.topic(f"{name_of(keys)}-words", value_type=str, partitions=1)
    counts = app.BatchTable(TABLE, default=int, key_type=str)

    @app.batch_agent(words, within=0)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    return app


async def prepare(bootstrap: str, sizes: tuple[int, ...]) -> str:
    """Make the source topics; return the id of the broker's cluster: a store is of one."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{name_of(keys)}-words", 1, 1) for keys in sizes])
        return str((await admin.describe_cluster())["cluster_id"] or "")
    finally:
        await admin.close()


def fill(keys: int, cluster: str, state: Path) -> None:
    """Write a store as a worker leaves it that has seen so many keys, in no order."""
    name = name_of(keys)
    store = Store(
        state / name / _WORKER / "count" / "0",
        f"{name}/count/0 of cluster {cluster}",
        StoreMemory(64 << 20),
    )
    numbers = list(range(keys))
    random.Random(1).shuffle(numbers)
    progress = encode(Progress(marker=Marker(), positions={TABLE: 0}, at=round(time.time() * 1000)))
    for begin in range(0, keys, _CHUNK):
        puts = [(b"word-%012d" % n, b"%d" % n) for n in numbers[begin : begin + _CHUNK]]
        store.write([TableWrites(TABLE, puts)], progress)
    store.close()


async def work(keys: int, bootstrap: str, state: Path) -> None:
    """Run a worker, print when its first batch is committed, and wait to be killed."""
    passed: dict[str, float] = {}
    start, assign = Group.start, Group._assign

    async def joining(group: Group) -> None:
        passed[JOIN] = time.perf_counter()
        await start(group)

    def assigning(group: Group, assigned: Any) -> None:
        passed[ASSIGNMENT] = time.perf_counter()
        assign(group, assigned)

    Group.start, Group._assign = joining, assigning  # type: ignore[method-assign, assignment]
    app = application(keys, bootstrap, state)
    app.finalize()
    engine = app.engine = Engine(app)
    await engine.start()
    while not any(  # noqa: ASYNC110  (nothing says it, and nothing else runs here)
        runner.checkpoints for group in engine.groups for runner in group.runners.values()
    ):
        await asyncio.sleep(0.0005)
    now = time.perf_counter()
    took = {moment: now - passed[moment] for moment in MOMENTS}
    restored = [r.restored for group in engine.groups for r in group.runners.values()]
    print(json.dumps({"seconds": took, "restored": sum(restored)}), flush=True)
    await asyncio.sleep(3600)


async def publish(bootstrap: str, topic: str, word: bytes) -> None:
    """Publish what the first new batch has."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, word, partition=0)


def reopen(keys: int, bootstrap: str, state: Path, word: bytes) -> dict[str, float]:
    """Start a worker, wait for its first batch, kill it; return the seconds that took, by moment."""
    asyncio.run(publish(bootstrap, f"{name_of(keys)}-words", word))
    command = [sys.executable, "-m", "bench.reopen", "--worker", str(keys)]
    command += ["--bootstrap", bootstrap, "--state", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    if not line:
        raise SystemExit(f"the worker with {keys:,} keys failed with status {process.returncode}")
    figures = json.loads(line)
    if figures["restored"] > 1:
        raise SystemExit(f"the worker has restored {figures['restored']:,} records, not its store")
    found: dict[str, float] = figures["seconds"]
    return found


def main() -> int:
    """Run the comparison; return 1 when the large state takes longer than the limit allows."""
    parser = argparse.ArgumentParser(prog="python -m bench.reopen", description=__doc__)
    parser.add_argument("--small", type=int, default=10_000, help="keys")
    parser.add_argument("--large", type=int, default=5_000_000, help="keys")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=1.3, help="highest ratio of the medians")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        asyncio.run(work(options.worker, options.bootstrap, options.state))
        return 0
    sizes = (options.small, options.large)
    seconds: dict[int, list[dict[str, float]]] = {keys: [] for keys in sizes}
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as path, broker() as bootstrap:
        state = Path(path)
        cluster = asyncio.run(prepare(bootstrap, sizes))
        for keys in sizes:
            say(f"writing a store of {keys:,} keys")
            fill(keys, cluster, state)
            reopen(keys, bootstrap, state, b"first")  # makes the topics, and is killed first
        for number in range(1, options.rounds + 1):
            for keys in sizes if number % 2 else reversed(sizes):
                seconds[keys].append(reopen(keys, bootstrap, state, b"word-%012d" % number))
            shown = ", ".join(
                f"{keys:,} keys {seconds[keys][-1][JOIN] * 1000:.0f} ms" for keys in sizes
            )
            say(f"round {number} of {options.rounds}: {shown}")
    medians = {
        moment: {keys: median(s[moment] for s in found) for keys, found in seconds.items()}
        for moment in MOMENTS
    }
    ratios = {m: found[options.large] / found[options.small] for m, found in medians.items()}
    over = max(ratios.values()) > options.limit
    if options.json:
        outcome = {
            "milliseconds": {
                moment: {keys: round(s * 1000, 1) for keys, s in found.items()}
                for moment, found in medians.items()
            },
            "ratios": ratios,
            "limit": options.limit,
            "within_limit": not over,
        }
        print(json.dumps(outcome))
        return int(over)
    table = Table(box=None, pad_edge=False)
    for column in ("from", "keys", "ms to the first new batch", "ratio"):
        table.add_column(column, justify="right")
    for moment, found in medians.items():
        for keys, s in found.items():
            ratio = f"{s / found[options.small]:.2f}"
            table.add_row(moment, f"{keys:,}", f"{s * 1000:.0f}", ratio)
    Console(width=120).print(table)
    if over:
        say(f"over the limit of {options.limit}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
