"""Two `streamapp ingest tweets` of one name: one receives, and the other one after it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.tweets import RULES, published_ids
from tests.x_api.beside import X, serving

TWEETS = 240


@contextmanager
def ingesting(
    kafka: BrokerUnderTest, topic: str, x: X, says: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "streamapp", "ingest", "tweets"]
    command += ["--topic", topic, "--bootstrap", kafka.bootstrap]
    command += [word for rule in RULES for word in ("--rule", rule)]
    with says.open("wb") as errors:
        process = subprocess.Popen(command, env={**os.environ, **x.environment}, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(180)
async def test_the_waiting_one_does_not_connect_and_takes_over_from_a_killed_one(
    kafka: BrokerUnderTest, tmp_path: Path
):
    topic = kafka.topic("tweets")
    owner_says, other_says = tmp_path / "owner", tmp_path / "other"
    with serving(tmp_path, TWEETS) as x:

        async def some() -> bool:
            return len(await published_ids(kafka.bootstrap, topic)) > 20

        async def all_there() -> bool:
            assert other.poll() is None, other_says.read_text()
            found = await published_ids(kafka.bootstrap, topic)
            return x.fake.done.is_set() and set(found) >= x.fake.searchable()

        with ingesting(kafka, topic, x, owner_says) as owner:
            await eventually(lambda: b"this process runs" in owner_says.read_bytes())
            with ingesting(kafka, topic, x, other_says) as other:
                await eventually(lambda: b"runs elsewhere" in other_says.read_bytes())
                await eventually(some)
                assert len(x.fake.connects) == 1
                assert b"rules:" not in other_says.read_bytes()
                owner.kill()
                await eventually(lambda: b"this process runs" in other_says.read_bytes())
                await eventually(all_there, within=90.0)
        assert len(x.fake.connects) == 2
        found = await published_ids(kafka.bootstrap, topic)
        assert set(found) == x.fake.searchable()
        assert max(found.values()) == 1
