"""The bar of a restore: seen on a terminal when it takes a while, gone when it is over."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streamapp.cli.recovery_bar import show_recovery
from streamapp.engine.progress import Recovery
from tests.polling import eventually


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    return Terminal()


@asynccontextmanager
async def shown(recovery: Recovery, screen: Terminal) -> AsyncIterator[None]:
    showing = asyncio.create_task(show_recovery(recovery, screen, every=0.001))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})


async def test_a_long_restore_has_a_bar_until_it_is_over(screen: Terminal) -> None:
    clock = Clock()
    recovery = Recovery(clock)
    async with shown(recovery, screen):
        with recovery.opening("count/0") as opening:
            opening.begin(1_000)
            clock.now = 5.0
            opening.move(done=500, records=400, size=2_500_000)
            await eventually(lambda: "400 records, 2.5 MB, 5 s left" in screen.getvalue())
            assert "restoring: 0 of 1 tasks are open" in screen.getvalue()
            assert recovery.shown
        await eventually(lambda: not recovery.shown)


async def test_a_short_one_has_none(screen: Terminal) -> None:
    clock = Clock()
    recovery = Recovery(clock)
    async with shown(recovery, screen):
        with recovery.opening("count/0") as opening:
            opening.begin(1_000)
            clock.now = 0.9
            for _ in range(20):
                await asyncio.sleep(0.001)
    assert screen.getvalue() == ""


async def test_what_is_logged_meanwhile_stays_whole(screen: Terminal) -> None:
    clock = Clock()
    recovery = Recovery(clock)
    handler = logging.StreamHandler(screen)
    logging.getLogger().addHandler(handler)
    try:
        async with shown(recovery, screen):
            with recovery.opening("count/0") as opening:
                opening.begin(10)
                clock.now = 2.0
                await eventually(lambda: recovery.shown and handler.stream is not screen)
                logging.getLogger("test").warning("a line of the log")
                await eventually(lambda: "a line of the log\n" in screen.getvalue())
            await eventually(lambda: handler.stream is screen)
    finally:
        logging.getLogger().removeHandler(handler)
