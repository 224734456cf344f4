"""One contender, in a process of its own: `python -m bench.contenders FORM …` prints its figures.

The clock starts when there is nothing left to do but to read: the bare loop has its partitions, the
engine's first task is open. It ends when everything is counted and, with the engine, committed and
in the store. So connecting, joining a group, making topics and fencing count for neither.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.sampling import Sampler
from bench.workload import PARTITIONS, TOPIC, WINDOW, Event, Totals


class Stopwatch:
    """CPU time of this process, all threads, and wall time, between two moments.

    Arguments:
        profile: where to write a profile of what happens between them.
    """

    def __init__(self, profile: Path | None) -> None:
        self._profile = profile
        self.figures: dict[str, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        sampler = Sampler()
        wall, cpu = time.perf_counter(), time.process_time()
        with nullcontext() if self._profile is None else sampler.running():
            yield
        self.figures = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if self._profile is not None:
            self._profile.write_text(sampler.report())


async def bare(options: argparse.Namespace, watch: Stopwatch) -> Totals:
    """Count with nothing but aiokafka: no state, no offsets, no guarantee."""
    consumer = AIOKafkaConsumer(bootstrap_servers=options.bootstrap)
    await consumer.start()
    targets = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
    consumer.assign(targets)
    ends = await consumer.end_offsets(targets)
    for tp in targets:
        consumer.seek(tp, 0)
    left = sum(ends.values())
    decode = msgspec.json.Decoder(Event).decode
    window = WINDOW * 1000
    counts: defaultdict[tuple[int, str], int] = defaultdict(int)
    with watch.running():
        while left:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                left -= len(records)
                for record in records:
                    time_ = record.timestamp
                    counts[time_ - time_ % window, decode(record.value).user] += 1
    await consumer.stop()
    return Totals(counts)


async def engine(options: argparse.Namespace, watch: Stopwatch) -> Totals:
    """Count with the engine, exactly once; return what the changelog says after it."""
    # The bare loop does not have to carry what the engine imports.
    from bench.jobs import TABLE, application
    from streamapp.engine.engine import Engine

    app = application(options.name, options.form, options.bootstrap, options.state)
    service = Engine(app, once=True)
    await service.start()
    finished = asyncio.ensure_future(service.finished.wait())
    while not any(  # noqa: ASYNC110  (nothing says it, and nothing else runs here)
        runner.position(TOPIC) is not None
        for group in service.groups
        for runner in group.runners.values()
    ):
        await asyncio.sleep(0.0005)
    with watch.running():
        while not service.finished.is_set():
            await asyncio.wait({finished}, timeout=1)
            if app.failure is not None:
                raise app.failure
    checkpoints = sum(
        runner.checkpoints for group in service.groups for runner in group.runners.values()
    )
    await service.stop()
    watch.figures["checkpoints"] = checkpoints
    return await published(options.bootstrap, f"{options.name}-{TABLE}-changelog")


async def published(bootstrap: str, changelog: str) -> Totals:
    """Return the counts that a table's changelog holds, as any reader of committed records sees it."""
    from streamapp.state.windowed import parse_pane_key

    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    totals = Totals()
    try:
        targets = [TopicPartition(changelog, partition) for partition in range(PARTITIONS)]
        consumer.assign(targets)
        await consumer.seek_to_beginning(*targets)
        ends = await consumer.end_offsets(targets)
        while any([await consumer.position(tp) < ends[tp] for tp in targets]):
            for records in (await consumer.getmany(timeout_ms=50)).values():
                for record in records:
                    start, user = parse_pane_key(record.key)
                    totals[start, user.decode()] = int(record.value)
    finally:
        await consumer.stop()
    return totals


def main() -> None:
    """Run one contender and print its figures and its counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("form", choices=("bare", "batch", "record"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    watch = Stopwatch(options.profile)
    contender: Any = bare if options.form == "bare" else engine
    totals = asyncio.run(contender(options, watch))
    counts = [[start, user, count] for (start, user), count in sorted(totals.items())]
    json.dump({**watch.figures, "counts": counts}, sys.stdout)


if __name__ == "__main__":
    main()
