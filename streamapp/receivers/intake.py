"""What connections have received and want to be safe, handed on in parts."""

import asyncio
from collections.abc import Sequence
from typing import Final

from streamapp.receivers.wal import Line

__all__ = ["Intake"]

BATCH_LINES: Final = 10_000
"""Lines at which a transaction is full."""


class Intake:
    """What connections have handed over and wait for; each has one part in here at the most."""

    def __init__(self) -> None:
        self.ended = False
        self._parts: list[tuple[Sequence[Line], asyncio.Future[None]]] = []
        self._taken: list[asyncio.Future[None]] = []
        self._filled = asyncio.Event()

    async def put(self, lines: Sequence[Line]) -> None:
        """Hand over lines, and return when they are safe.

        Raises:
            ConnectionAbortedError: it is not known whether they are.
        """
        safe = asyncio.get_running_loop().create_future()
        self._parts.append((lines, safe))
        self._filled.set()
        await safe

    async def filled(self) -> None:
        """Wait until there is something, or nothing comes any more."""
        await self._filled.wait()

    def end(self) -> None:
        """Nothing comes any more."""
        self.ended = True
        self._filled.set()

    @property
    def empty(self) -> bool:
        return not self._parts

    def take(self) -> list[Line]:
        """Take parts up to a transaction's worth; `safe` answers those who wait for them."""
        taken: list[Line] = []
        while self._parts and len(taken) < BATCH_LINES:
            lines, safe = self._parts.pop(0)
            taken += lines
            self._taken.append(safe)
        if not self._parts and not self.ended:
            self._filled.clear()
        return taken

    def safe(self) -> None:
        """What was taken is safe."""
        for future in self._taken:
            if not future.done():
                future.set_result(None)
        self._taken = []

    def abort(self) -> None:
        """Nobody will take anything any more."""
        for future in [*self._taken, *(future for _, future in self._parts)]:
            if not future.done():
                future.set_exception(ConnectionAbortedError("the receiver has ended"))
        self._taken, self._parts = [], []
