"""Who a worker is: a name, or the first free slot, and with it a state directory of its own."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import IO

from streamapp.errors import ConfigurationError

__all__ = ["Identity"]

_SLOTS = 1_000
#: Beside the lock: the worker is to leave for good when it stops.
_DRAIN = "drain"


class Identity:
    """A worker's identity, held by a lock on its directory for as long as the worker lives.

    Arguments:
        root: the state directory of the application on this host.
        name: of a named worker; without one, the first free slot of `root` is taken, so that a
            worker that is started again finds the stores of one that has gone.

    Raises:
        ConfigurationError: the name is taken by another process of this host.
    """

    def __init__(self, root: Path, name: str | None) -> None:
        self.named = name is not None
        if name is not None:
            if not re.fullmatch(r"(?!\.+$)[\w.-]{1,100}", name):
                raise ConfigurationError(
                    f"a worker's name has letters, digits, '.', '_' and '-', and more than dots: not {name!r}"
                )
            lock = self._lock(root / name)
            if lock is None:
                raise ConfigurationError(
                    f"a worker named {name} is running already (it holds {root / name}): "
                    "stop it, or give this one another --name"
                )
            self.name, self._file = name, lock
        else:
            self.name, self._file = self._first_free(root)
        self.directory = root / self.name
        # What was asked of the worker before.
        self.withdraw_drain(self.directory)

    @property
    def draining(self) -> bool:
        """Whether the worker was asked to leave its groups for good when it stops."""
        return self.drain_requested(self.directory)

    def drained(self) -> None:
        """Say that it has left them."""
        self.withdraw_drain(self.directory)

    @staticmethod
    def _lock(directory: Path) -> IO[str] | None:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file

    @classmethod
    def _first_free(cls, root: Path) -> tuple[str, IO[str]]:
        for slot in range(_SLOTS):
            name = f"worker-{slot}"
            file = cls._lock(root / name)
            if file is not None:
                return name, file
        raise ConfigurationError(f"{_SLOTS} workers hold the slots of {root}")

    @staticmethod
    def holder(directory: Path) -> int | None:
        """Return the process that holds a worker's directory, as it has written it there; `None` for none."""
        try:
            with (directory / "lock").open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or 0)
        except FileNotFoundError:
            pass
        return None

    @staticmethod
    def request_drain(directory: Path) -> None:
        """Ask the worker that holds a directory to leave its groups for good when it stops."""
        (directory / _DRAIN).touch()

    @staticmethod
    def drain_requested(directory: Path) -> bool:
        """Whether that was asked, and not done yet."""
        return (directory / _DRAIN).exists()

    @staticmethod
    def withdraw_drain(directory: Path) -> None:
        """Ask it no more."""
        (directory / _DRAIN).unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the name."""
        self._file.close()
