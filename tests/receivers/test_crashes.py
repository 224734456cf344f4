"""`streamapp ingest file`, killed again and again: no line is lost, none is published twice."""

# ruff: noqa: ASYNC220, ASYNC240  (nothing else runs in the loop while a process is waited for)

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamapp.faults import ENVIRONMENT
from streamapp.sample_logs import generate
from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.topics import values

POINTS = ("fenced", "before-delivery", "before-commit", "after-commit")


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(b"\r\n".join(generate(20_000, seed=1)))
    return path


def ingest(
    kafka: BrokerUnderTest, topic: str, log: Path, fault: str = ""
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamapp", "ingest", "file", str(log)]
    command += ["--topic", topic, "--bootstrap", kafka.bootstrap, "--batch", "200"]
    return subprocess.Popen(command, env={**os.environ, ENVIRONMENT: fault}, stderr=subprocess.PIPE)


async def assert_exactly_once(kafka: BrokerUnderTest, topic: str, log: Path) -> None:
    lines = log.read_bytes().split(b"\r\n")
    found = await values(kafka.bootstrap, topic)
    assert {partition: len(part) for partition, part in found.items()} == dict.fromkeys(
        range(4), len(lines) // 4
    )
    assert found == {partition: lines[partition::4] for partition in range(4)}


async def test_killed_where_it_hurts(kafka: BrokerUnderTest, topic: str, log: Path):
    for point in POINTS:
        # The first pass of the transaction's points is the claim with which a receiver begins.
        for nth in (1,) if point == "fenced" else (1, 2, 5):
            process = ingest(kafka, topic, log, fault=f"receiver.{point}:{nth}")
            _, errors = process.communicate()
            assert process.returncode == -signal.SIGKILL, errors.decode()
    process = ingest(kafka, topic, log)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    await assert_exactly_once(kafka, topic, log)


async def test_killed_at_any_moment(kafka: BrokerUnderTest, topic: str, log: Path):
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(8):
        process = ingest(kafka, topic, log)
        try:
            process.communicate(timeout=moments.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            assert process.returncode == 0
    process = ingest(kafka, topic, log)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    await assert_exactly_once(kafka, topic, log)


async def test_of_two_processes_one_waits_and_finds_nothing_left_to_do(
    kafka: BrokerUnderTest, topic: str, log: Path
):
    both = [ingest(kafka, topic, log) for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    await assert_exactly_once(kafka, topic, log)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_commits_and_says_so(
    kafka: BrokerUnderTest, topic: str, log: Path, number: signal.Signals
):
    command = [sys.executable, "-m", "streamapp", "ingest", "file", str(log), "--follow"]
    command += ["--topic", topic, "--bootstrap", kafka.bootstrap, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    async def all_there() -> bool:
        return sum(map(len, (await values(kafka.bootstrap, topic)).values())) == 19_999

    await eventually(all_there)  # all but the last line, which has no newline
    process.send_signal(number)
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b'"lines": 19999' in output
