"""Cancellations that nobody meant for the task at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from streamapp.errors import TaskClosed

__all__ = ["stray_cancellations"]


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
