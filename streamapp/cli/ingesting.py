"""What the commands of `streamapp ingest` share: options, signals, and a line of progress."""

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console

from streamapp.cli.troubles import trouble_of_receiver
from streamapp.errors import StreamappError
from streamapp.pulse import beating
from streamapp.receivers.errors import SourceError
from streamapp.receivers.ownership import SESSION_TIMEOUT, Ownership
from streamapp.receivers.receiver import Receiver

__all__ = ["Ticker", "common_options", "log_to_stderr", "run_as_owner", "stoppable", "tell"]

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

GRACE = 10.0
"""Seconds after a signal within which what was read has to be committed."""

_OPTIONS = (
    click.option("--topic", "-t", required=True, help="Where the lines go."),
    click.option(
        "--bootstrap",
        "-b",
        default="localhost:9092",
        show_default=True,
        help="The broker's address.",
    ),
    click.option("--name", help="Keeps the position, and is run by one process at a time."),
    click.option(
        "--partitions",
        default=4,
        show_default=True,
        type=click.IntRange(min=1),
        help="Of the topic, if it has to be created.",
    ),
    click.option(
        "--session-timeout",
        default=SESSION_TIMEOUT,
        show_default=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds after which a dead process is replaced by one that waits.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object."),
)


def common_options(command: Command) -> Command:
    """Add what every source takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Our own messages, in one line each; what aiokafka has to say is in them already."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("streamapp").setLevel(level)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def stoppable(receiver: Receiver[Any, Any], running: asyncio.Future[Result]) -> Result:
    """Run until the end; a signal stops it well, a second one or `GRACE` seconds at once."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if receiver.stopping:
            running.cancel()
        else:
            receiver.stop()
            loop.call_later(GRACE, running.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        async with beating(trouble_of_receiver(receiver)):
            return await running
    except asyncio.CancelledError:
        raise StreamappError(
            "stopped before the broker had confirmed what was read last: it is published, or will"
            " be when this is started again; nothing is lost or repeated"
            if receiver.reliable
            else "stopped before the broker had confirmed what was read last: nobody knows whether"
            " it is published"
        ) from None


def run_as_owner(receiver: Receiver[Any, Result], session_timeout: float) -> Result | None:
    """Run a receiver under supervision for as long as it is its turn, until its end or a signal."""

    async def run() -> Result | None:
        ownership = Ownership(
            receiver.bootstrap, receiver.topic, receiver.name, session_timeout=session_timeout
        )
        return await stoppable(
            receiver, asyncio.ensure_future(receiver.supervised(ownership=ownership))
        )

    try:
        return asyncio.run(run())
    except OSError as error:
        raise SourceError(f"{receiver.name}: {error}") from error


def tell(summary: msgspec.Struct | object, sentence: str, as_json: bool) -> None:
    """Sum up: for a program on standard output, for people on standard error."""
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(summary)))
    else:
        click.echo(sentence, err=True)


class Ticker:
    """A line of progress: rewritten on a terminal, elsewhere a new one every ten seconds.

    Args:
        source: what the line begins with.
        clock: tells seconds.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._terminal = Console(stderr=True).is_terminal
        self._every = 0.2 if self._terminal else 10.0
        self._started = self._told = clock()

    def __call__(self, lines: int, more: str = "") -> None:
        """Tell how many lines were published, if it is time to."""
        now = self._clock()
        if now - self._told < self._every:
            return
        self._told = now
        rate = lines / (now - self._started)
        line = f"{self._source}: {lines:,} lines, {rate:,.0f} lines a second{more}"
        click.echo(f"\r{line}\x1b[K" if self._terminal else line, err=True, nl=not self._terminal)
