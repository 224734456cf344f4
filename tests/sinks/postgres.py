"""A PostgreSQL of the tests' own: Debian's package, in a temporary directory, on a free port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Postgres", "PostgresUnavailable", "postgres_server"]

_DEBIAN = Path("/usr/lib/postgresql")


class PostgresUnavailable(Exception):
    """There is no PostgreSQL here."""


class Postgres:
    """A running server; its superuser needs no password, from this host alone.

    Attributes:
        dsn: of its database `postgres`.
    """

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._data = directory / "data"
        self._log = directory / "log"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.dsn = f"postgresql://tests@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Make its data directory."""
        self._run("initdb", "--auth=trust", "--username=tests", "--no-sync", "--encoding=UTF8")

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=50"
        self._run("pg_ctl", "-w", "-l", str(self._log), "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: `immediate` is a crash, from which it recovers when it is started."""
        self._run("pg_ctl", "-w", "-m", how, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_another_user(), str(self._programs / program), "-D", str(self._data), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{program}: {done.stderr}")


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Run a server for as long as the context is open.

    Raises:
        PostgresUnavailable: it is not installed.
    """
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="streamapp-postgres-") as name:
        directory = Path(name)
        if user := _another_user():
            shutil.chown(directory, user[2])
        server = Postgres(programs, directory)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _programs() -> Path:
    """Where `pg_ctl` is: Debian keeps it off the path, in a directory a version."""
    found = shutil.which("pg_ctl")
    versions = [path.parent for path in _DEBIAN.glob("*/bin/pg_ctl")]
    if found is None and not versions:
        raise PostgresUnavailable(
            "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        )
    return max(versions) if versions else Path(found or "").parent


def _another_user() -> list[str]:
    """How to run a program as somebody else, as root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresUnavailable("there is no user postgres to run PostgreSQL as") from None
    return ["runuser", "-u", "postgres", "--"]
