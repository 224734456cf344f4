"""What the stream and the search hand to whoever publishes."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from streamapp.receivers.tweets.backlog import Backlog
from streamapp.receivers.tweets.kept import KeptBacklog

__all__ = ["Connecting", "Filled", "Found", "Inbox", "Order", "Searched"]

_ORDERS = 2


@dataclass(frozen=True, slots=True)
class Found:
    """Tweets of a search."""

    lines: list[bytes]


@dataclass(frozen=True, slots=True)
class Filled:
    """Search has found all that was written before the connect of that time."""

    connect_ms: int


@dataclass(frozen=True, slots=True)
class Searched:
    """Search has found all that was written before that time, in milliseconds since the epoch."""

    before_ms: int


@dataclass(frozen=True, slots=True)
class Connecting:
    """When there were connects, with the one that is next.

    To be committed before connecting, so that none is forgotten.
    """

    connects: list[int]
    committed: asyncio.Future[None]


Order = Found | Filled | Searched | Connecting


class Inbox:
    """The stream's lines, which cannot wait, and the orders of others, who can.

    Args:
        backlog: holds the lines.
    """

    def __init__(self, backlog: Backlog | KeptBacklog) -> None:
        self.backlog = backlog
        self.ended = False
        self._orders: asyncio.Queue[Order] = asyncio.Queue(maxsize=_ORDERS)
        self._filled = asyncio.Event()

    @property
    def empty(self) -> bool:
        return not len(self.backlog) and self._orders.empty()

    def put(self, kind: int, data: bytes) -> None:
        """Add what the stream has said.

        Raises:
            BacklogFull: there is no room for it.
        """
        self.backlog.put(kind, data)
        self._filled.set()

    async def give(self, order: Order) -> None:
        """Add an order, when it is its turn."""
        await self._orders.put(order)
        self._filled.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self.ended = True
        self._filled.set()

    async def filled(self) -> None:
        """Wait until there is something, or nothing comes any more."""
        while self.empty and not self.ended:
            self._filled.clear()
            await self._filled.wait()

    def orders(self) -> Iterator[Order]:
        """Take the orders that are there, one after the other."""
        while not self._orders.empty():
            yield self._orders.get_nowait()
