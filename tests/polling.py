"""Waiting for a condition, instead of for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

Answer = TypeVar("Answer")

PATIENCE = 90.0
"""Seconds after which a condition is taken for never true: long, as machines may be busy."""


@overload
async def eventually(
    condition: Callable[[], Awaitable[Answer]], *, within: float = PATIENCE
) -> Answer: ...
@overload
async def eventually(condition: Callable[[], Answer], *, within: float = PATIENCE) -> Answer: ...
async def eventually(condition: Callable[[], object], *, within: float = PATIENCE) -> object:
    """Ask again and again until the answer is true, and return it.

    Raises `AssertionError` with the last answer after `within` seconds. An `AssertionError` of
    the condition itself counts as "not yet".
    """
    deadline = time.monotonic() + within
    pause = 0.005
    while True:
        last: object
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            last = answer
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within:g} s; the last answer: {last!r}")
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)
