"""`faust -A … worker` as a user meets it: what it says when it cannot go on, and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tests.brokers import BrokerUnderTest


def run_worker(
    application: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a worker to its end."""
    return subprocess.run(
        [sys.executable, "-m", "faust", "-A", application, "worker", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_without_a_broker_it_says_what_to_do_and_ends_with_one(tmp_path: Path) -> None:
    done = run_worker(
        "streamapp",
        STREAMAPP_BROKER="kafka://127.0.0.1:1",
        STREAMAPP_BROKER_PATIENCE="0.1",
        STREAMAPP_STATE=str(tmp_path),
    )
    assert done.returncode == 1
    assert "streamapp: no Kafka broker answers at 127.0.0.1:1: start one" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


async def test_an_agent_that_fails_for_every_record_ends_the_worker_with_one_and_says_where(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    name = f"{kafka.prefix}failing"
    topic = await kafka.create_topic("failing-in", partitions=1)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for line in (b"first", b"second", b"third"):
            await producer.send_and_wait(topic, line)
    done = run_worker(
        "tests.cli.failing",
        STREAMAPP_TEST_PREFIX=name,
        STREAMAPP_TEST_BOOTSTRAP=kafka.bootstrap,
        STREAMAPP_TEST_STATE=str(tmp_path),
    )
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()
    [last] = [line for line in said if line.startswith("streamapp: ")]
    assert f"broken/0 failed in the batch agent broken in {topic}:0:1-2" in last
    assert "(RuntimeError: no good: second), after 1 skips within 60 s: nothing of it was" in last
    assert "mend the agent" in last


def test_the_options_of_the_engine_are_in_the_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "streamapp", "worker", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "--once" in done.stdout
    assert "--name" in done.stdout


def test_the_lists_of_faust_have_batch_agents_and_tables() -> None:
    def said(command: str) -> str:
        arguments = [sys.executable, "-m", "faust", "-A", "streamapp", command]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
        return " ".join(done.stdout.split())

    assert "count_errors | streamapp-errors-by-key | Add the partial counts" in said("agents")
    assert "error_counts | Count in hopping windows of 30 s every 10 s" in said("tables")
    assert "word_counts | plain" in said("tables")
