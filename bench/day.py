"""`python -m bench.day`: a day of event time in ten minutes; what a worker holds must not grow.

A worker counts events in windows of a minute, which close and expire, while resident memory, open
files and the size of its stores are looked at. In the second half they have to be flat: the last
quarter of the run is compared with the one before it. What comes out is compared with a count of the
same events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.__main__ import broker, say
from bench.day_job import DAY, Event, Names

PARTITIONS = 4
USERS = 200
BEGIN = 1_767_225_600_000
_EVERY = 2.0
#: How much more the last quarter may hold than the third: a part of it, and an allowance for what
#: comes and goes (memtables, files that wait for compaction).
_GROWTH = {"resident": (1.05, 0), "files": (1.0, 8), "disk": (1.1, 4 << 20)}


@dataclass(frozen=True, slots=True)
class Sample:
    """What the worker holds at one moment: bytes, open files, bytes."""

    at: float
    resident: int
    files: int
    disk: int


def events(count: int) -> Iterator[tuple[int, Event]]:
    """The day's events, as `(partition, event)` in order of time."""
    for number in range(count):
        user = number * 7919 % USERS
        yield user % PARTITIONS, Event(f"user-{user:03d}", BEGIN + number * DAY // count)


async def publish(bootstrap: str, names: Names, count: int, seconds: float) -> None:
    """Publish the day's events evenly within so many seconds."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=20, max_batch_size=1 << 18
    )
    await producer.start()
    began = time.monotonic()
    try:
        for number, (partition, event) in enumerate(events(count)):
            await producer.send(
                names.events, msgspec.json.encode(event), event.user.encode(), partition=partition
            )
            if number % 1000 == 0:
                await asyncio.sleep(max(0.0, began + seconds * number / count - time.monotonic()))
        await producer.flush()
    finally:
        await producer.stop()


def hold(pid: int, state: Path, began: float) -> Sample:
    """What a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    disk = 0
    for path in state.rglob("*"):
        try:
            disk += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # compaction has removed it
            continue
    return Sample(time.monotonic() - began, pages * os.sysconf("SC_PAGESIZE"), files, disk)


async def watch(
    bootstrap: str, names: Names, state: Path, count: int, seconds: float
) -> list[Sample]:
    """Run the worker and the load; return the samples."""
    environment = {**os.environ, **names.environment(bootstrap, state)}
    said = state.parent / "worker.log"
    log = said.open("wb")
    command = [sys.executable, "-m", "faust", "-A", "bench.day_job", "-l", "info", "worker"]
    worker = await asyncio.create_subprocess_exec(
        *command, "--name", "day", env=environment, stdout=log, stderr=log
    )
    samples: list[Sample] = []
    began = time.monotonic()
    loading = asyncio.create_task(publish(bootstrap, names, count, seconds))
    try:
        done = 0
        while done < count:
            if loading.done():
                loading.result()
            if worker.returncode is not None:
                raise SystemExit(f"the worker ended: {tail(said)}")
            await asyncio.sleep(_EVERY)
            done = await processed(bootstrap, names)
            samples.append(hold(worker.pid, state, began))
            last = samples[-1]
            say(
                f"{last.at:5.0f} s  {done / count:6.1%}  {last.resident >> 20} MiB resident, "
                f"{last.files} files, {last.disk >> 20} MiB on disk"
            )
    finally:
        loading.cancel()
        worker.terminate()
        await worker.wait()
        log.close()
    return samples


def tail(log: Path) -> str:
    """What a log ends with."""
    return log.read_text(errors="replace")[-2000:]


async def processed(bootstrap: str, names: Names) -> int:
    """How many events the worker has committed; offsets are counts, for nobody deletes any."""
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=names.group, enable_auto_commit=False
    ) as consumer:
        committed = [
            await consumer.committed(TopicPartition(names.events, partition)) or 0
            for partition in range(PARTITIONS)
        ]
    return sum(committed)


async def windows(bootstrap: str, names: Names) -> Counter[tuple[int, str]]:
    """What was sent of closed windows; each once."""
    found: Counter[tuple[int, str]] = Counter()
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        places = [TopicPartition(names.windows, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(tp) < ends[tp] for tp in places]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    window: dict[str, Any] = msgspec.json.decode(record.value)
                    found[window["start"], window["key"]] += window["value"]
    return found


def check(found: Counter[tuple[int, str]], count: int) -> int:
    """Compare closed windows with a count of the events; return how many there are.

    Raises:
        SystemExit: one is wrong, or more than the last minutes are missing.
    """
    minute = 60_000
    expected = Counter((event.time - event.time % minute, event.user) for _, event in events(count))
    last = max(start for start, _ in found)
    closed = {place: n for place, n in expected.items() if place[0] < last}
    wrong = [place for place, n in closed.items() if found[place] != n]
    if wrong or BEGIN + DAY - last > 10 * minute:
        raise SystemExit(f"{len(wrong)} of {len(closed)} windows are wrong, the last is {last}")
    return len(closed)


def growth(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """The mean of each figure in the third and in the last quarter."""
    quarter = len(samples) // 4
    third, last = samples[2 * quarter : 3 * quarter], samples[3 * quarter :]
    return {
        name: (mean(getattr(s, name) for s in third), mean(getattr(s, name) for s in last))
        for name in _GROWTH
    }


def growing(samples: list[Sample]) -> list[str]:
    """The names of the figures that are higher in the last quarter than they may be."""
    return [
        name
        for name, (third, last) in growth(samples).items()
        if last > third * _GROWTH[name][0] + _GROWTH[name][1]
    ]


def main() -> int:
    """Run the day; 1 when something grows."""
    parser = argparse.ArgumentParser(prog="python -m bench.day", description=__doc__)
    parser.add_argument("--records", type=int, default=3_600_000)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="within which they are published"
    )
    parser.add_argument("--bootstrap", help="a broker; without one, an embedded broker is started")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    names = Names(f"day-{time.time_ns():x}")
    with tempfile.TemporaryDirectory(prefix="streamapp-day-") as directory:
        state = Path(directory) / "state"
        state.mkdir()

        async def run(bootstrap: str) -> tuple[list[Sample], int]:
            admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
            await admin.start()
            topics = [NewTopic(name, PARTITIONS, 1) for name in (names.events, names.windows)]
            await admin.create_topics(topics)
            await admin.close()
            samples = await watch(bootstrap, names, state, asked.records, asked.minutes * 60)
            return samples, check(await windows(bootstrap, names), asked.records)

        if asked.bootstrap:
            samples, closed = asyncio.run(run(asked.bootstrap))
        else:
            with broker() as bootstrap:
                samples, closed = asyncio.run(run(bootstrap))
    found = growth(samples)
    grew = growing(samples)
    if asked.json:
        print(
            json.dumps(
                {
                    "grew": grew,
                    "windows": closed,
                    "quarters": found,
                    "samples": [asdict(sample) for sample in samples],
                }
            )
        )
    else:
        for name, (third, last) in found.items():
            print(f"{name:9} third quarter {third:14,.0f}  last {last:14,.0f}")
        print(f"{closed:,} windows as counted; " + (f"grew: {grew}" if grew else "nothing grew"))
    return 1 if grew else 0


if __name__ == "__main__":
    sys.exit(main())
