"""What the commands of `streamapp ingest` share: options, running until a signal, summing up."""

import asyncio
import functools
import json
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from streamapp.cli.ingest_ticker import CLEAR_LINE, Ticker, on_terminal
from streamapp.cli.troubles import trouble_of_receiver
from streamapp.errors import StreamappError
from streamapp.pulse import beating
from streamapp.receivers.connection import Connection
from streamapp.receivers.errors import SourceError
from streamapp.receivers.live import LOG_BYTES
from streamapp.receivers.ownership import SESSION_TIMEOUT, Ownership
from streamapp.receivers.receiver import Receiver

__all__ = [
    "Ingestion",
    "common_options",
    "counted",
    "examples",
    "following",
    "paced",
    "sentence",
    "write_ahead_log",
]

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

_MIB = 1 << 20

GRACE = 10.0
"""Seconds after a signal within which what was read has to be committed."""

following = click.option("--follow", "-f", is_flag=True, help="Wait for more, without an end.")


def paced(default: float | None, what: str) -> Callable[[Command], Command]:
    """The option `--rate`, of so many a second; `what` tells it to people."""
    return click.option(
        "--rate",
        default=default,
        show_default=default is not None,
        type=click.FloatRange(min=0, min_open=True),
        help=what,
    )


def write_ahead_log(command: Command) -> Command:
    """Add the options of what keeps lines from being lost: `log` and `log_bytes`."""
    limit = click.option(
        "--wal-limit",
        "log_bytes",
        metavar="MIB",
        default=LOG_BYTES // _MIB,
        show_default=True,
        type=click.IntRange(min=1),
        callback=lambda ctx, param, mebibytes: mebibytes * _MIB,
        help="What the log may hold before the source is kept waiting.",
    )
    directory = click.option(
        "--wal",
        "log",
        metavar="DIRECTORY",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep what comes in here until it is published: a crash then loses none of it.",
    )
    return directory(limit(command))


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"    streamapp ingest {command}" for command in commands)


def common_options(
    *, name: str, topic: str | None = None, default_name: str | None = None
) -> Callable[[Command], Callable[..., Any]]:
    """Add what every source takes.

    The command is called with `topic`, `bootstrap`, `name` and `partitions`, as receivers are, and
    with the `Ingestion` that runs them.

    Args:
        name: what the name is when none is given, for the help.
        topic: where records go when no topic is given; without it the option is required.
        default_name: the name when none is given; otherwise that is for the receiver to say.
    """
    # To click even None is a default, and what has a default is not required.
    given: dict[str, Any] = (
        {"required": True} if topic is None else {"default": topic, "show_default": True}
    )
    options = (
        click.option("--topic", "-t", **given, help="Where the records go."),
        click.option(
            "--bootstrap",
            "-b",
            default="localhost:9092",
            show_default=True,
            help="The broker's address.",
        ),
        click.option(
            "--name",
            default=default_name,
            help="Keeps the position, and is run by one process at a time; others wait."
            f"  [default: {name}]",
        ),
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

    def add(command: Command) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(
            *, bootstrap: str, session_timeout: float, as_json: bool, **arguments: Any
        ) -> Any:
            return command(
                bootstrap=Connection.from_environment(bootstrap),
                ingestion=Ingestion(session_timeout, as_json),
                **arguments,
            )

        for option in reversed(options):
            called = option(called)
        return called

    return add


@dataclass(frozen=True, slots=True)
class Ingestion:
    """How a receiver is run from the command line.

    session_timeout: seconds after which a dead process is replaced by one that waits.
    as_json: whether the summary is for a program.
    """

    session_timeout: float
    as_json: bool

    def run(
        self,
        receiver: Receiver[Any, Result],
        summary: Result,
        sentence: Callable[[Result], str],
        ticker: Ticker,
        *,
        verbose: bool = False,
    ) -> None:
        """Receive for as long as it is this process's turn, until the end or a signal; sum up.

        Args:
            receiver: is supervised.
            summary: what it has done in the end.
            sentence: tells a summary to people.
            ticker: shows progress.
            verbose: whether to show what is no warning.

        Raises:
            StreamappError: it failed, or was ended before all that it had read was committed.
        """
        log_to_stderr(logging.INFO if verbose else logging.WARNING)
        try:
            asyncio.run(self._run(receiver, ticker))
        except OSError as error:
            raise SourceError(f"{receiver.name}: {error}") from error
        if self.as_json:
            click.echo(json.dumps(msgspec.to_builtins(summary)))
        else:
            click.echo(sentence(summary), err=True)

    async def _run(self, receiver: Receiver[Any, Any], ticker: Ticker) -> None:
        """A signal stops the receiver well, a second one or `GRACE` seconds at once."""
        ownership = Ownership(
            receiver.bootstrap, receiver.topic, receiver.name, session_timeout=self.session_timeout
        )
        running = asyncio.ensure_future(receiver.supervised(ownership=ownership))
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
            async with ticker.ticking(), beating(trouble_of_receiver(receiver)):
                await running
        except asyncio.CancelledError:
            raise StreamappError(
                "stopped before the broker had confirmed what was read last: it is published, or"
                " will be when this is started again; nothing is lost or repeated"
                if receiver.reliable
                else "stopped before the broker had confirmed what was read last: nobody knows"
                " whether it is published"
            ) from None


def log_to_stderr(level: int) -> None:
    """Our own messages, in one line each; what aiokafka has to say is in them already."""
    before = CLEAR_LINE if on_terminal() else ""
    logging.basicConfig(format=f"{before}%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("streamapp").setLevel(level)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def counted(count: int, what: str) -> str:
    """A part of a sentence, which is left out when it counts nothing."""
    return f"{count:,} {what}" if count else ""


def sentence(*parts: str) -> str:
    """A summary for people, of the parts that say something."""
    return ", ".join(filter(None, parts))
