"""`streamapp ingest sample` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.topics import values


@pytest.mark.parametrize("kind", ["tweets", "log"])
async def test_it_publishes_until_interrupted_and_sums_up(
    kafka: BrokerUnderTest, kind: str
) -> None:
    topic = kafka.topic("sample")
    command = [sys.executable, "-m", "streamapp", "ingest", "sample", kind, "--rate", "500"]
    command += ["--topic", topic, "--bootstrap", kafka.bootstrap, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220

    async def published() -> int:
        assert process.poll() is None
        return sum(map(len, (await values(kafka.bootstrap, topic)).values()))

    try:
        await eventually(published)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    found = sum(map(len, (await values(kafka.bootstrap, topic)).values()))
    summary = json.loads(output)
    assert (summary["kind"], summary["records"]) == (kind, found)
