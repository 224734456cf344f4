"""The receiver's process is killed again and again: no tweet is lost, none is there twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamapp.faults import ENVIRONMENT
from streamapp.receivers.tweets.backlog import LINE
from streamapp.receivers.tweets.lines import Tweet, read_line
from streamapp.receivers.wal import WriteAheadLog
from streamapp.sample_tweets import generate
from tests.brokers import BrokerUnderTest
from tests.receivers.tweets import RULES, api_of, published_ids
from tests.x_api import FakeX, FastLoop, Fault, LoopClock, scatter

#: Thirty silent seconds, after which a stream is given up, are still longer than a busy machine stalls.
FACTOR = 12.0
#: The fast clock begins in the past: a broker refuses records that are an hour ahead of its own.
_AHEAD = timedelta(hours=12)
POINTS = (
    *("tweets.before-connect:1", "receiver.before-commit:9", "tweets.after-publish:7"),
    *("receiver.after-commit:12", "receiver.before-delivery:5", "receiver.fenced:1", ""),
)
LOUD = {"401", "403"}


def starting(
    kafka: tuple[str, str],
    directory: Path,
    fake: FakeX,
    origin: float,
    start: datetime,
    **options: str,
) -> Callable[[str], subprocess.Popen[bytes]]:
    """What starts a receiver as a process, with a fault."""
    api = api_of(fake, directory)
    settings = {
        "bootstrap": kafka[0],
        "topic": kafka[1],
        "host": api.host,
        "authority": str(api.authority),
        "factor": FACTOR,
        "origin": origin,
        "start": start.timestamp(),
        **options,
    }

    def started(fault: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.receivers.tweet_process", json.dumps(settings)]
        log = (directory / "log").open("ab")
        return subprocess.Popen(command, env={**os.environ, ENVIRONMENT: fault}, stderr=log)

    return started


async def kill_and_receive(
    kafka: tuple[str, str],
    directory: Path,
    origin: float,
    tweets: int,
    kills: int,
    faults: list[Fault],
) -> None:
    bootstrap, topic = kafka
    loop = asyncio.get_running_loop()
    assert isinstance(loop, FastLoop)
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    moments = random.Random(seed)
    start = datetime.now(UTC) - _AHEAD
    clock = LoopClock(start.timestamp(), zero=origin)
    written = list(
        generate(tweets, seed=1, start=datetime.fromtimestamp(clock.now() + 60, UTC), rate=4.0)
    )
    async with FakeX(written, clock, faults, rules=RULES) as fake:
        started = starting(kafka, directory, fake, origin, start)
        for number in range(kills):
            fault = POINTS[number % len(POINTS)]
            process = started(fault)
            patience = time.monotonic() + (20.0 if fault else moments.uniform(2.0, 5.0))
            while process.poll() is None and time.monotonic() < patience:  # noqa: ASYNC110
                await asyncio.sleep(1.0)
            process.kill()
            assert process.wait() == -signal.SIGKILL, (directory / "log").read_text()[-3000:]
        last = started("")
        try:
            # Every start searches: the quota of search may be spent for a quarter of an hour.
            patience = time.monotonic() + 420.0
            found = await published_ids(bootstrap, topic)
            while not (fake.done.is_set() and set(found) >= fake.searchable()):
                assert time.monotonic() < patience, (
                    f"{len(fake.searchable() - set(found))} tweets are missing, the stream is"
                    f" {'over' if fake.done.is_set() else 'still going on'};"
                    f" connects {fake.connects}; it is {clock.now()};"
                    f" {(directory / 'log').read_text()[-3000:]}"
                )
                if last.poll() is not None:
                    last = started("")
                await asyncio.sleep(20.0)
                found = await published_ids(bootstrap, topic)
            last.send_signal(signal.SIGTERM)
            while last.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(1.0)
            # With nothing left to receive it may be told to end before it has begun to listen.
            assert last.returncode in (0, -signal.SIGTERM)
        finally:
            last.kill()
            last.wait()
        found = await published_ids(bootstrap, topic)
        assert sorted(fake.searchable() - set(found)) == []
        assert max(found.values()) == 1
        assert fake.most_connects() < 50


def run(
    kafka: tuple[str, str], directory: Path, tweets: int, kills: int, faults: list[Fault]
) -> None:
    origin = time.monotonic()
    with asyncio.Runner(loop_factory=lambda: FastLoop(FACTOR, origin)) as runner:
        runner.run(kill_and_receive(kafka, directory, origin, tweets, kills, faults))


async def kill_what_search_cannot_mend(
    kafka: tuple[str, str], directory: Path, origin: float
) -> None:
    bootstrap, topic = kafka
    start = datetime.now(UTC) - _AHEAD
    clock = LoopClock(start.timestamp(), zero=origin)
    begin = datetime.fromtimestamp(clock.now() + 60, UTC)
    written = list(generate(600, seed=1, start=begin, rate=4.0))
    kept = directory / "kept"
    async with FakeX(written, clock, rules=["sample:50"]) as fake:
        started = starting(kafka, directory, fake, origin, start, log=str(kept))
        killed = started("receiver.before-commit:6")
        while killed.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        assert killed.returncode == -signal.SIGKILL, (directory / "log").read_text()[-3000:]
        received = ids_in(kept, topic)
        assert received - set(await published_ids(bootstrap, topic)), "nothing would be lost"
        last = started("")
        try:
            patience = time.monotonic() + 90.0
            while received - set(await published_ids(bootstrap, topic)):
                assert time.monotonic() < patience, (directory / "log").read_text()[-3000:]
                await asyncio.sleep(20.0)
            last.send_signal(signal.SIGTERM)
            while last.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(1.0)
        finally:
            last.kill()
            last.wait()
    assert max((await published_ids(bootstrap, topic)).values()) == 1
    assert ids_in(kept, topic) == set(), "what is published is kept no longer"


def ids_in(directory: Path, topic: str) -> set[str]:
    """The tweets that a killed receiver has kept."""
    found = set()
    with WriteAheadLog(directory, topic, "tweets") as log:
        place = log.first
        while True:
            lines, place = log.read(place)
            if not lines:
                return found
            entries = [read_line(line.value[1:]) for line in lines if line.value[0] == LINE]
            found |= {str(entry.id) for entry in entries if isinstance(entry, Tweet)}


@pytest.fixture
def here(kafka: BrokerUnderTest) -> tuple[str, str]:
    return kafka.bootstrap, kafka.topic("tweets")


@pytest.mark.timeout(600)
async def test_killed_three_times(here: tuple[str, str], tmp_path: Path):
    faults = [Fault(50, "reset"), Fault(120, "half-line"), Fault(200, "duplicate")]
    await asyncio.to_thread(run, here, tmp_path, 600, 3, faults)


@pytest.mark.timeout(600)
async def test_what_search_cannot_find_again_is_not_lost_with_a_log(
    here: tuple[str, str], tmp_path: Path
):
    def run() -> None:
        origin = time.monotonic()
        with asyncio.Runner(loop_factory=lambda: FastLoop(FACTOR, origin)) as runner:
            runner.run(kill_what_search_cannot_mend(here, tmp_path, origin))

    await asyncio.to_thread(run)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("tweets", "number"),
    [
        pytest.param(2_000, 20, marks=pytest.mark.slow),
        pytest.param(5_000, 50, marks=pytest.mark.soak),
    ],
)
async def test_killed_ten_times_among_faults(
    here: tuple[str, str], tmp_path: Path, tweets: int, number: int
):
    faults = [fault for fault in scatter(7, tweets, number) if fault.kind not in LOUD]
    await asyncio.to_thread(run, here, tmp_path, tweets, 10, faults)
