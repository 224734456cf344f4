"""Cancellations that nobody meant for the task at hand, and such that get lost on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streamapp.errors import TaskClosed

__all__ = ["end", "stray_cancellations"]

#: After how many seconds what was cancelled, and goes on, is cancelled again.
_AGAIN = 1.0


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended, whatever it ends in.

    Once is not enough: aiokafka swallows a cancellation that comes while it closes a client.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN)


@contextmanager
def stray_cancellations() -> Iterator[None]:
    """Tell a cancellation of what is awaited within from one of whoever awaits it.

    A future that somebody else has cancelled raises `CancelledError` too; let through, it would end
    a task in silence.

    Raises:
        TaskClosed: something that was awaited was cancelled.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        raise TaskClosed("something that it waited for was cancelled") from error
