"""Whether a process still does its work, for whoever asks from outside: `streamapp health`.

The process keeps a small file, written by its own event loop. A loop that hangs writes nothing, and
work that is stuck is written down with the time at which it last went well: either way that time
grows old, and its age is all that is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from streamapp.errors import ConfigurationError, StreamappError

__all__ = ["VARIABLE", "Pulse", "Unhealthy", "beating", "examine"]

VARIABLE: Final = "STREAMAPP_PULSE"
"""Names the file; without it none is written."""

EVERY: Final = 2.0
"""Seconds between two beats."""


class Unhealthy(StreamappError):
    """A process gives no sign of life, or says what keeps it from its work."""


class Pulse(msgspec.Struct, frozen=True):
    """What the file holds.

    Attributes:
        process: whose it is.
        well: when all went well last, in seconds since the epoch; 0 if it never did.
        trouble: what is wrong since then; None when nothing is.
    """

    process: int
    well: float = 0.0
    trouble: str | None = None


@contextlib.asynccontextmanager
async def beating(
    trouble: Callable[[], str | None], path: Path | None = None
) -> AsyncIterator[None]:
    """Keep the file while the context is open, if there is to be one.

    Args:
        trouble: what is wrong just now, in a few words; None when nothing is.
        path: of the file; `STREAMAPP_PULSE` by default.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    if path is None:
        named = os.environ.get(VARIABLE)
        path = Path(named) if named else None
    if path is None:
        yield
        return
    _write(path, Pulse(os.getpid(), trouble="it starts"))
    beats = asyncio.get_running_loop().create_task(_beat(path, trouble), name="pulse")
    try:
        yield
    finally:
        beats.cancel()
        await asyncio.wait({beats})
        path.unlink(missing_ok=True)


async def _beat(path: Path, trouble: Callable[[], str | None]) -> None:
    pulse = Pulse(os.getpid())
    while True:
        wrong = trouble()
        well = pulse.well if wrong else time.time()
        pulse = Pulse(pulse.process, well, wrong)
        _write(path, pulse)
        await asyncio.sleep(EVERY)


def _write(path: Path, pulse: Pulse) -> None:
    unfinished = path.with_name(f"{path.name}.new")
    try:
        unfinished.write_bytes(msgspec.json.encode(pulse))
        unfinished.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{VARIABLE}: cannot write {path}: {error}") from error


def examine(path: Path, max_age: float, now: float) -> float:
    """How many seconds ago all went well, if that is recent enough.

    Raises:
        Unhealthy: it is not, or nobody knows.
    """
    try:
        pulse = msgspec.json.decode(path.read_bytes(), type=Pulse)
    except FileNotFoundError:
        raise Unhealthy(
            f"there is no {path}: the process has ended or is starting, or {VARIABLE} does not"
            " name this file where it runs"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise Unhealthy(f"{path} cannot be read: {error}") from error
    age = max(0.0, now - pulse.well)
    if age <= max_age:
        return age
    since = f"for {age:,.0f} s" if pulse.well else "since its start"
    why = pulse.trouble or "it gives no sign of life"
    raise Unhealthy(f"process {pulse.process} is not well {since}: {why}")
