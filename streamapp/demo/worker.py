"""The demo's worker: `faust -A streamapp worker`, as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from importlib.util import find_spec
from pathlib import Path

from streamapp.demo.errors import DemoError
from streamapp.demo.folder import Folder, shown

__all__ = ["COMMAND", "Worker"]

STOP_TIMEOUT = 10.0
"""Seconds that a worker may take to finish its batches before it is killed."""

NAME = "demo"
"""A named worker is a static member of its groups: what was killed is replaced at once, where a
member without a name would be waited for until its session ends."""

COMMAND = f"faust -A streamapp worker --name {NAME}"
"""What one would type to start such a worker."""

_TAIL_LINES = 15


class Worker:
    """A worker of the application that ships, on the broker at `bootstrap`.

    Its standard output and error go to the folder's `worker.log`. It ends with this process, however
    this process ends.
    """

    def __init__(self, bootstrap: str, folder: Folder) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process, once it is started."""
        assert self._process is not None, "start() has returned"
        return self._process.pid

    async def start(self) -> None:
        """Start the process; it is not ready then.

        Raises:
            DemoError: the agents are not here: a wheel does not bring them.
        """
        _find_agents()
        with self._folder.worker_log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "streamapp.demo.leash"),
                *("--app", "streamapp", "--datadir", str(self._folder.faust)),
                *("--loglevel", "info", "worker", "--name", NAME),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env={
                    **os.environ,
                    "STREAMAPP_BROKER": f"kafka://{self._bootstrap}",
                    "STREAMAPP_STATE": str(self._folder.state),
                },
                # Ctrl-C is for the demo alone, which then stops everything in order.
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise a `DemoError`, with the end of the log, if the worker has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise DemoError(
                f"the worker has died ({_reason(self._process.returncode)}). Its log ends with:\n\n"
                f"{_tail(self._folder.worker_log)}\n\n"
                f"All of it is in {shown(self._folder.worker_log)}. Nothing is lost: the next start"
                " goes on where the last checkpoint was."
            )

    async def stop(self, hurry: asyncio.Event) -> None:
        """Let it finish its batches and leave; kill it when it takes long, or in a hurry."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended = asyncio.ensure_future(process.wait())
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=STOP_TIMEOUT, return_when="FIRST_COMPLETED")
        hurried.cancel()
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await ended


def _find_agents() -> None:
    here = Path.cwd() / "agents" / "errors.py"
    if here.is_file():
        return
    with contextlib.suppress(ModuleNotFoundError):
        if find_spec("agents.errors") is not None:
            return
    raise DemoError(
        "the demo runs the jobs in agents/ and tables/, which are in the project's repository and"
        " not in the installed package: change to a checkout and run `make demo` there"
    )


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError), log.open(errors="replace") as lines:
        last = deque(lines, maxlen=_TAIL_LINES)
        if last:
            return "".join(f"    {line}" for line in last).rstrip()
    return "    (nothing)"
