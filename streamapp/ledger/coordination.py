"""Asking a group's coordinator, which is somewhere else for a moment, or was never asked for before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

__all__ = ["from_coordinator"]

_Answer = TypeVar("_Answer")

#: For how long it is asked again, and how often, in seconds.
_WITHIN: Final = 30.0
_EVERY: Final = 0.1


async def from_coordinator(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Return an answer of a group's coordinator; ask again while it is being found, or is moving.

    Raises:
        KafkaError: it stays away, or refuses.
    """
    deadline = time.monotonic() + _WITHIN
    while True:
        try:
            return await ask()
        except (
            GroupCoordinatorNotAvailableError,
            GroupLoadInProgressError,
            NotCoordinatorForGroupError,
        ):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_EVERY)
