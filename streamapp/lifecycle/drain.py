"""Draining a worker of this host: it finishes its batches, leaves its groups for good, and ends.

The request is a file in the worker's directory and a SIGTERM: a worker that stops looks for the one
and leaves its groups as one that does not come back. It takes the file away when that is done, so a
file that is left behind by a worker that has ended says that it has not come so far.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

from streamapp.engine.identity import Identity
from streamapp.lifecycle.errors import LifecycleError

__all__ = ["drain"]

_LOOK: Final = 0.1


async def drain(root: Path, name: str, within: float) -> None:
    """Drain a worker, and wait until it has ended.

    Arguments:
        root: the state directory of the application on this host.
        within: seconds to wait.

    Raises:
        LifecycleError: it does not run here, cannot be told, takes longer, or has ended otherwise.
    """
    directory = root / name
    pid = Identity.holder(directory)
    if pid is None:
        running = await asyncio.to_thread(_running, root)
        raise LifecycleError(
            f"no worker named {name} runs on this host under {root}: "
            + (f"there are {', '.join(running)}" if running else "none does")
            + "; run this where the worker runs, with its state directory"
        )
    if not _is_locked_by(directory / "lock", pid):
        raise LifecycleError(
            f"the worker {name} holds {directory}, and its process {pid} is not one of this host: run this where it "
            "runs, in its container"
        )
    Identity.request_drain(directory)
    try:
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError) as error:
        Identity.withdraw_drain(directory)
        raise LifecycleError(
            f"the worker {name} cannot be told (process {pid}: {error.strerror}): run this as its user"
        ) from error
    deadline = time.monotonic() + within
    while Identity.holder(directory) is not None:
        if time.monotonic() > deadline:
            raise LifecycleError(
                f"the worker {name} is still finishing its batches after {within:.0f} s: it goes on with that, and ends then"
            )
        await asyncio.sleep(_LOOK)
    if Identity.drain_requested(directory):
        Identity.withdraw_drain(directory)
        raise LifecycleError(
            f"the worker {name} has ended before it had left its groups: see its log; its tasks move when the session "
            "timeout is over"
        )


def _running(root: Path) -> list[str]:
    """Return the workers that run under a state directory."""
    return sorted(path.parent.name for path in root.glob("*/lock") if Identity.holder(path.parent))


def _is_locked_by(lock: Path, pid: int) -> bool:
    """Whether a process of this host holds a lock; a number from another container is someone else's here.

    Where the kernel does not list locks, the number is believed.
    """
    try:
        listed = Path("/proc/locks").read_text()
    except OSError:
        return True
    inode = str(lock.stat().st_ino)
    # 1: FLOCK  ADVISORY  WRITE 11295 fe:00:10691427 0 EOF
    rows = [row.split() for row in listed.splitlines()]
    return any(
        row[1] == "FLOCK" and row[4] == str(pid) and row[5].rpartition(":")[2] == inode
        for row in rows
        if len(row) > 5
    )
