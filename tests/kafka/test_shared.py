"""One Kafka for all processes of a test run, gone with the one that leads it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kafka import shared
from tests.kafka.server import answers, running_pid
from tests.kafka.shared import session_directory, shared_server

LEADER = """
import sys
from pathlib import Path
from tests.kafka import shared
shared.STATE = Path(sys.argv[1])
with shared.session_directory() as directory:
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.mark.broker
@pytest.mark.kafka
def test_all_who_ask_get_one_kafka_and_the_next_run_ends_what_a_killed_one_left(
    tmp_path: Path, apache_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "STATE", tmp_path)
    command = [sys.executable, "-c", LEADER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        directory = Path(leader.stdout.readline().decode().strip())
        with ThreadPoolExecutor() as threads:
            addresses = set(threads.map(shared_server, [directory] * 3))
        [address] = addresses
        with session_directory() as another:
            assert another != directory
        assert answers(address, timeout=10.0)
        leader.kill()
    assert running_pid(directory / "server") is not None
    with session_directory():
        assert not answers(address)
        assert not directory.exists()
