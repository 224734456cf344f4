"""One Apache Kafka that several processes use: whoever wants it first starts it.

A test run may be spread over processes. The one that leads the run owns a folder for as long as it
lives; each process asks for the Kafka of that folder; the owner stops it in the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.kafka.jars import STATE
from tests.kafka.server import KafkaServer, running_pid, stop_process

_started: list[KafkaServer] = []
"""Servers that are this process's children: forgotten, Python would warn that they run."""


@contextlib.contextmanager
def session_directory() -> Iterator[Path]:
    """A folder for one test run; in the end, the Kafka in it is killed and the folder removed.

    So is what runs left behind that were killed themselves.
    """
    STATE.mkdir(exist_ok=True)
    for earlier in STATE.glob("session-*"):
        with contextlib.suppress(OSError), (earlier / "owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(earlier)
    directory = STATE / f"session-{os.getpid()}"
    directory.mkdir(exist_ok=True)
    with (directory / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            _remove(directory)


def shared_server(directory: Path) -> str:
    """The address of the Kafka in this folder, which is started unless it is running.

    Safe to call from several processes at once: one starts it and the others wait for it.
    Raises `KafkaUnavailable` when it cannot be started.
    """
    directory.mkdir(parents=True, exist_ok=True)
    address = directory / "bootstrap"
    with (directory / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if running_pid(directory / "server") is None:
            server = KafkaServer(directory / "server")
            # The port of last time may be taken: a new configuration, with the old data gone.
            server.destroy()
            server.start()
            _started.append(server)
            address.write_text(server.bootstrap)
        return address.read_text()


def stop_shared_server(directory: Path, timeout: float = 20.0) -> bool:
    """Shut down the Kafka in this folder, and kill it after `timeout` seconds; whether it ran."""
    return stop_process(directory / "server", timeout)


def _remove(directory: Path) -> None:
    stop_shared_server(directory, timeout=0.0)
    shutil.rmtree(directory, ignore_errors=True)
