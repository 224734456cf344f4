"""`streamapp health`, and what it is told by a worker and by an ingester."""

# ruff: noqa: ASYNC220  (short commands)

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamapp.cli import troubles
from streamapp.cli.troubles import PATIENCE, Stalls
from streamapp.receivers.receiver import State
from streamapp.receivers.sample import Kind, SampleReceiver
from tests.brokers import BrokerUnderTest
from tests.polling import eventually


def ask(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamapp", "health", *options],
        env={**os.environ, "STREAMAPP_PULSE": str(file)},
        capture_output=True,
        text=True,
    )


@dataclass(slots=True)
class Task:
    name: str
    quiet: bool = False
    steps: int = 0


def test_a_task_that_has_records_and_commits_nothing_is_stuck() -> None:
    now = [0.0]
    stalls = Stalls(lambda: now[0])
    idle, busy, stuck = Task("idle/0", quiet=True), Task("busy/0"), Task("stuck/0")
    for _ in range(int(PATIENCE)):
        assert stalls.trouble([idle, busy, stuck]) is None
        now[0] += 1.0
        busy.steps += 1
    stalls.trouble([idle, busy, stuck])
    now[0] += 2.0
    busy.steps += 1
    found = stalls.trouble([idle, busy, stuck])
    assert found == "task stuck/0 has committed and restored nothing for 62 s"
    stuck.steps += 1
    assert stalls.trouble([idle, busy, stuck]) is None
    assert stalls.trouble([]) is None


@pytest.mark.parametrize("state", State)
def test_a_receiver_is_well_while_it_runs_or_waits_for_its_turn(state: State) -> None:
    receiver = SampleReceiver(Kind.LOG, "lines")
    receiver._state = state
    receiver._last_error = "OSError: no route"
    found = troubles.trouble_of_receiver(receiver)()
    if state in (State.RUNNING, State.WAITING, State.ENDED):
        assert found is None
    else:
        assert found == f"receiver sample:log is {state} after OSError: no route"


async def test_an_ingester_is_well_until_it_hangs(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "pulse"
    command = [sys.executable, "-m", "streamapp", "ingest", "sample", "log"]
    command += ["--topic", kafka.topic("lines"), "--bootstrap", kafka.bootstrap]
    process = subprocess.Popen(command, env={**os.environ, "STREAMAPP_PULSE": str(file)})
    try:
        assert ask(file).returncode == 1
        await eventually(lambda: ask(file).returncode == 0)
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: ask(file, "--max-age", "0.5").returncode == 1)
        assert "it gives no sign of life" in ask(file, "--max-age", "0.5").stderr
        process.send_signal(signal.SIGCONT)
        await eventually(lambda: ask(file).returncode == 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert "there is no" in ask(file).stderr


async def test_a_worker_is_well_when_it_has_started(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "pulse"
    topic = await kafka.create_topic("failing-in", partitions=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "faust", "-A", "tests.cli.failing", "worker"],
        env={
            **os.environ,
            "STREAMAPP_PULSE": str(file),
            "STREAMAPP_TEST_PREFIX": f"{kafka.prefix}failing",
            "STREAMAPP_TEST_BOOTSTRAP": kafka.bootstrap,
            "STREAMAPP_TEST_STATE": str(tmp_path),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert topic
    try:
        await eventually(lambda: ask(file).returncode == 0)
        process.kill()
        process.wait()
        await eventually(lambda: ask(file, "--max-age", "0.5").returncode == 1)
    finally:
        process.kill()
