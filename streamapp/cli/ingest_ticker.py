"""The line of progress that every source has while it is received."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click
from rich.console import Console

from streamapp.receivers.receiver import State, Status

__all__ = ["CLEAR_LINE", "Ticker", "on_terminal"]

CLEAR_LINE = "\r\x1b[K"
"""Goes before whatever is written on a terminal that may show a line of progress."""

_SECONDS_ON_TERMINAL, _SECONDS_IN_LOG = 0.2, 10.0


def on_terminal() -> bool:
    """Whether standard error is seen by somebody now."""
    return Console(stderr=True).is_terminal


class Ticker:
    """A line of progress: rewritten on a terminal; elsewhere a new one when there is news.

    Args:
        source: what the line begins with.
        status: tells how the receiver is doing.
        unit: what its records are.
        lag: what its lag is, as "bytes to go".
        more: what else there is to tell.
        terminal: whether the line is rewritten.
    """

    def __init__(
        self,
        source: str,
        status: Callable[[], Status],
        *,
        unit: str = "lines",
        lag: str = "bytes to go",
        more: Callable[[], str] = str,
        terminal: bool | None = None,
    ) -> None:
        self._source = source
        self._status = status
        self._unit = unit
        self._lag = lag
        self._more = more
        self._terminal = on_terminal() if terminal is None else terminal
        self._told = ""

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Tell now and then; the line is ended at the end."""
        ticking = asyncio.ensure_future(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            self.end()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_ON_TERMINAL if self._terminal else _SECONDS_IN_LOG)
            self.tell()

    def tell(self) -> None:
        """Show how the receiver is doing, if that has changed."""
        line = self._line(self._status())
        if line == self._told:
            return
        self._told = line
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"{CLEAR_LINE}{line[:width]}", err=True, nl=False, color=True)
        else:
            click.echo(line, err=True)

    def end(self) -> None:
        """Leave the line as it is, and go to the next one."""
        if self._terminal and self._told:
            click.echo(err=True)
        self._told = ""

    def _line(self, status: Status) -> str:
        rate = f"{status.rate:,.1f}" if status.rate < 10 else f"{status.rate:,.0f}"
        line = f"{self._source}: {status.records:,} {self._unit}, {rate} a second"
        if status.lag is not None:
            line += f", {status.lag:,} {self._lag}"
        if more := self._more():
            line += f", {more}"
        if status.restarts:
            line += f", restarted {status.restarts:,} times"
        return line if status.state is State.RUNNING else f"{line} ({status.state})"
