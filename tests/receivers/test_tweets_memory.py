"""A broker that stands still while the stream goes on: what waits has a bound, and nothing is lost.

The receiver is a process of its own, so that its memory is nobody else's. Run as a module with its
settings as JSON, this file is that process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streamapp.receivers.tweets import Api, TweetReceiver
from streamapp.receivers.tweets.api import LINE_BYTES
from streamapp.receivers.tweets.collector import BATCH_BYTES
from streamapp.receivers.tweets.search import PAGE
from streamapp.sample_tweets import generate
from tests.embedded import EmbeddedProcess
from tests.polling import eventually
from tests.receivers.tweets import api_of, published_ids, token
from tests.x_api import FakeX, LoopClock

RULE = "-nobody"
"""Selects every tweet."""

TEXT = 8_000
BURST, TAIL = 5_000, 600
MEMORY = 1 << 20
DISK = 4 << 20
FULL = "the backlog has no room"
GROWTH = MEMORY + 4 * BATCH_BYTES + 2 * LINE_BYTES + 10 * PAGE * TEXT + (4 << 20)
"""Lines that wait; a batch as lines, as record batches and as requests; what aiohttp reads ahead; pages
of a search, eight that wait and one that is read; what the allocator keeps. Far less than the burst."""


async def receive(settings: dict[str, Any]) -> None:
    receiver = TweetReceiver(
        settings["topic"],
        token(),
        api=Api(settings["host"], Path(settings["authority"])),
        bootstrap=settings["bootstrap"],
        memory=MEMORY,
        disk=DISK,
        patience=600.0,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, receiver.stop)
    await receiver.run()


def written(moment: float) -> list[dict[str, Any]]:
    """Long tweets in quick succession from then on, and some more, by which search catches up."""
    burst = list(generate(BURST, seed=1, start=datetime.fromtimestamp(moment, UTC), rate=200.0))
    last = datetime.fromisoformat(burst[-1]["data"]["created_at"])
    tail = [t for t in generate(TAIL, seed=2, start=last, rate=5.0) if _id(t) > _id(burst[-1])]
    for tweet in burst:
        tweet["data"]["text"] += " " + "x" * TEXT
    return burst + tail


def _id(tweet: dict[str, Any]) -> int:
    return int(tweet["data"]["id"])


def memory_of(process: int, what: str) -> int:
    """`VmRSS`, or `VmHWM` since `forget_peak`, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {what}")


def forget_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


def spilled_by(process: int, directory: Path) -> int:
    """Bytes in files of that directory that the process has open; they have no name."""
    files = Path(f"/proc/{process}/fd").iterdir()
    return sum(f.stat().st_size for f in files if str(f.readlink()).startswith(str(directory)))


async def pause_and_continue(directory: Path) -> None:
    clock = LoopClock(datetime.now(UTC).timestamp())
    tweets = written(clock.now() + 10.0)
    spill, log = directory / "spill", directory / "log"
    spill.mkdir()
    with EmbeddedProcess() as broker:
        async with FakeX(tweets, clock, rules=[RULE]) as fake:
            api = api_of(fake, directory)
            settings = {
                "bootstrap": broker.bootstrap,
                "topic": "tweets",
                "host": api.host,
                "authority": str(api.authority),
            }
            receiver = subprocess.Popen(  # noqa: ASYNC220  (it takes no time that others need)
                [sys.executable, "-m", "tests.receivers.test_tweets_memory", json.dumps(settings)],
                env={**os.environ, "TMPDIR": str(spill)},
                stderr=log.open("wb"),
            )
            assert broker._process is not None
            try:

                async def some() -> bool:
                    return len(await published_ids(broker.bootstrap, "tweets")) > 100

                await eventually(some)
                broker._process.send_signal(signal.SIGSTOP)
                before = memory_of(receiver.pid, "VmRSS")
                forget_peak(receiver.pid)
                most = 0

                def full() -> bool:
                    nonlocal most
                    most = max(most, spilled_by(receiver.pid, spill))
                    if memory_of(receiver.pid, "VmHWM") - before > GROWTH:
                        return True
                    return fake.happened >= BURST and FULL in log.read_text()

                await eventually(full, within=120.0)
                growth = memory_of(receiver.pid, "VmHWM") - before
                broker._process.send_signal(signal.SIGCONT)
                print(f"grown by {growth:,} bytes, {most:,} on disk")
                assert growth <= GROWTH
                assert 0 < most <= DISK

                expected = {tweet["data"]["id"] for tweet in tweets[:BURST]}

                async def all_there() -> bool:
                    return expected <= set(await published_ids(broker.bootstrap, "tweets"))

                await eventually(all_there, within=120.0)
                receiver.send_signal(signal.SIGTERM)
                await eventually(lambda: receiver.poll() is not None)
                assert receiver.returncode == 0, log.read_text()[-3000:]
                found = await published_ids(broker.bootstrap, "tweets")
                assert max(found.values()) == 1
            except AssertionError as error:
                error.add_note(log.read_text()[-3000:])
                raise
            finally:
                broker._process.send_signal(signal.SIGCONT)
                receiver.kill()
                receiver.wait()


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_what_waits_for_a_paused_broker_is_bounded_and_nothing_is_lost(tmp_path: Path):
    await pause_and_continue(tmp_path)


if __name__ == "__main__":
    asyncio.run(receive(json.loads(sys.argv[1])))
