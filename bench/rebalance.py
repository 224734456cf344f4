"""`python -m bench.rebalance`: for how long a worker that joins or leaves stops the tasks.

A worker has all the tasks of a topology; a second one joins, and leaves. What is measured is when
the partitions of each task are read and when they are not, in both processes on one clock: of tasks
that stay where they are, and of those that move. The tasks have state, and nothing to do meanwhile:
under load, the batch at hand comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from bench.__main__ import broker, say
from bench.rebalance_worker import topic_of

#: How long to wait for anything, in seconds.
_PATIENCE = 180.0
_WORDS = 100


class Watched:
    """A worker process, and since when it has had which tasks open."""

    def __init__(self, name: str, bootstrap: str, tasks: int, state: Path) -> None:
        self.history: list[tuple[float, frozenset[int]]] = [(time.monotonic(), frozenset())]
        command = [sys.executable, "-m", "bench.rebalance_worker", "--name", name]
        command += ["--bootstrap", bootstrap, "--tasks", str(tasks), "--state", str(state)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at, tasks = json.loads(line)
            self.history.append((at, frozenset(tasks)))

    @property
    def open(self) -> frozenset[int]:
        """The tasks that are open now."""
        return self.history[-1][1]

    @property
    def sockets(self) -> int:
        """Sockets of the process."""
        directory = Path(f"/proc/{self._process.pid}/fd")
        return sum("socket:" in str(fd.readlink()) for fd in directory.iterdir())

    @property
    def mebibytes(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """Tell it to end, and wait until it has."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def check(self) -> None:
        """Raise SystemExit when it has ended by itself."""
        if self._process.poll() is not None:
            raise SystemExit("a worker has ended: run python -m bench.rebalance_worker to see why")


def closed(task: int, since: float, *workers: Watched) -> float:
    """Return for how long altogether no worker had a task open, from a moment to the last change."""
    changes = sorted(
        (at, number, task in tasks)
        for number, worker in enumerate(workers)
        for at, tasks in worker.history
    )
    has = dict.fromkeys(range(len(workers)), False)
    total, shut = 0.0, None
    for at, number, there in changes:
        has[number] = there
        if any(has.values()):
            if shut is not None and at > since:
                total += at - max(shut, since)
            shut = None
        elif shut is None:
            shut = at
    return total


def until(reached: Callable[[], bool], *workers: Watched) -> None:
    """Wait for something that the workers do."""
    deadline = time.monotonic() + _PATIENCE
    while not reached():
        for worker in workers:
            worker.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"the workers did not get there within {_PATIENCE:.0f} s")
        time.sleep(0.01)


async def prepare(name: str, bootstrap: str, tasks: int) -> None:
    """Make the topic, with some records in each partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic_of(name), tasks, 1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for partition in range(tasks):
            for number in range(_WORDS):
                await producer.send(topic_of(name), b'"word-%d"' % number, partition=partition)


async def clean(name: str, bootstrap: str) -> None:
    """Delete what the application has made."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        topics = [topic for topic in await admin.list_topics() if topic.startswith(name)]
        await admin.delete_topics(topics)
    finally:
        await admin.close()


def measure(bootstrap: str, tasks: int) -> dict[str, Any]:
    """Let a worker join one that has so many tasks, and leave; return the figures (seconds)."""
    name = f"bench-rebalance-{tasks}-{time.time_ns()}"
    asyncio.run(prepare(name, bootstrap, tasks))
    every = frozenset(range(tasks))
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as state:
        first = Watched(name, bootstrap, tasks, Path(state) / "a")
        try:
            until(lambda: first.open == every, first)
            # The first line is of a worker that has joined, and has nothing yet.
            opening = first.history[-1][0] - first.history[1][0]
            settle()
            figures: dict[str, Any] = {"tasks": tasks, "opening": opening}
            figures["sockets"] = first.sockets
            figures["mebibytes"] = first.mebibytes
            joined = time.monotonic()
            changes = len(first.history)
            second = Watched(name, bootstrap, tasks, Path(state) / "b")
            try:
                # One task stays where it is: the change is that it was closed and opened.
                until(
                    lambda: (
                        len(first.history) > changes
                        and len(second.open) == tasks // 2
                        and first.open | second.open == every
                    ),
                    first,
                    second,
                )
                settle()
                stays = first.open
                figures["join"] = pauses(stays, every, joined, first, second)
                left = time.monotonic()
            finally:
                second.stop()
            until(lambda: first.open == every, first)
            settle()
            figures["leave"] = pauses(stays, every, left, first, second)
        finally:
            first.stop()
            asyncio.run(clean(name, bootstrap))
    return figures


def settle() -> None:
    """Let what a rebalance has begun come to its end: another one may follow it."""
    time.sleep(3.0)


def pauses(
    stays: frozenset[int], every: frozenset[int], since: float, *workers: Watched
) -> dict[str, float]:
    """Return the longest pause of a task that stays, and of one that moves."""
    moves = every - stays
    return {
        "stays": max(closed(task, since, *workers) for task in stays),
        "moves": max((closed(task, since, *workers) for task in moves), default=0.0),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "tasks",
        "all open, s",
        "join: stays, s",
        "moves, s",
        "leave: stays, s",
        "moves, s",
        "sockets",
        "RSS MiB",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["tasks"]),
            f"{row['opening']:.2f}",
            *(f"{row[why][what]:.2f}" for why in ("join", "leave") for what in ("stays", "moves")),
            str(row["sockets"]),
            f"{row['mebibytes']:.0f}",
        )
    Console(width=120).print(table)


def main() -> int:
    """Measure with few tasks and with many."""
    parser = argparse.ArgumentParser(prog="python -m bench.rebalance", description=__doc__)
    parser.add_argument("--tasks", type=int, action="append", help="how many; may be repeated")
    parser.add_argument("--bootstrap", help="a Kafka; the embedded broker otherwise")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    options = parser.parse_args()
    rows = []
    with nullcontext(options.bootstrap) if options.bootstrap else broker() as bootstrap:
        for tasks in options.tasks or (1, 20, 200):
            say(f"{tasks} tasks")
            rows.append(measure(bootstrap, tasks))
    print(json.dumps(rows)) if options.json else show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
