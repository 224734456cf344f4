"""The consumers that restores borrow: kept for the next one, and none is left behind."""

from __future__ import annotations

import asyncio

import pytest

from streamapp.broker import Broker
from streamapp.engine.readers import Reader, Readers


@pytest.fixture
async def readers(embedded: Broker) -> Readers:
    return Readers({"bootstrap_servers": embedded.bootstrap})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Reader]:
    """Every reader that is made."""
    made: list[Reader] = []
    start = Reader.start

    async def recorded(self: Reader) -> None:
        made.append(self)
        await start(self)

    monkeypatch.setattr(Reader, "start", recorded)
    return made


async def test_one_that_rests_serves_the_next(readers: Readers, made: list[Reader]) -> None:
    for _ in range(3):
        async with readers.reader():
            pass
    assert len(made) == 1
    await readers.close()
    assert made[0]._consumer._closed


async def test_whoever_is_cancelled_while_returning_one_leaves_none_open(
    readers: Readers, made: list[Reader]
) -> None:
    enough = asyncio.Event()

    async def restore() -> None:
        async with readers.reader():
            await enough.wait()

    restores = [asyncio.create_task(restore()) for _ in range(4)]
    while len(made) < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    enough.set()
    while not any(reader._consumer._closed for reader in made):  # noqa: ASYNC110
        await asyncio.sleep(0)
    for task in restores:
        task.cancel()
    await asyncio.wait(restores)
    await readers.close()
    assert all(reader._consumer._closed for reader in made)
    assert not any(reader._consumer._client._conns for reader in made), "connections are closed"
