"""A progress bar for tasks that restore, on the terminal of a worker."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from streamapp.engine.progress import Recovery, RestoreProgress

__all__ = ["show_recovery", "terminal"]

#: Between two looks, in seconds.
_EVERY = 0.1
#: What takes less than this is not worth a bar, in seconds.
_SHORT = 1.0


async def show_recovery(recovery: Recovery, stream: TextIO, every: float = _EVERY) -> None:
    """Show a bar on a terminal whenever tasks have been restoring for a second; run until cancelled.

    The bar goes when they are open. Log lines that go to a terminal meanwhile come above it.
    """
    console = Console(file=stream)
    while True:
        await asyncio.sleep(every)
        if recovery.active and recovery.seconds >= _SHORT and recovery.total.total:
            await _show(recovery, console, every)


async def _show(recovery: Recovery, console: Console, every: float) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}"),
    )
    recovery.shown = True
    try:
        with (
            Progress(*columns, console=console, transient=True) as bar,
            _logged_above(console),
        ):
            task = bar.add_task("", figures="")
            while recovery.active:
                _update(bar, task, recovery.total)
                await asyncio.sleep(every)
    finally:
        recovery.shown = False


def _update(bar: Progress, task: TaskID, total: RestoreProgress) -> None:
    bar.update(
        task,
        description=f"restoring: {total.task}",
        completed=total.done,
        total=max(total.total, 1),
        figures=figures(total),
    )


def figures(total: RestoreProgress) -> str:
    """Return records, bytes and the time that is left, for people."""
    shown = f"{total.records:,} records, {total.bytes / 1e6:,.1f} MB"
    remaining = total.remaining
    return shown if remaining is None else f"{shown}, {remaining:,.0f} s left"


@contextmanager
def _logged_above(console: Console) -> Iterator[None]:
    """Send what the log has for a terminal through the console, which keeps the bar below it."""
    moved: list[tuple[logging.StreamHandler[Any], Any]] = []
    for handler in logging.getLogger().handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(handler, logging.StreamHandler) and stream is not None and stream.isatty():
            moved.append((handler, stream))
            handler.setStream(FileProxy(console, stream))
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)


def terminal() -> TextIO | None:
    """Return the terminal that the worker is watched on, if there is one.

    Faust replaces `sys.stdout` and `sys.stderr` by its log.
    """
    stream = sys.__stderr__
    watched = sys.__stdout__ is not None and sys.__stdout__.isatty()
    return stream if watched and stream is not None and stream.isatty() else None
