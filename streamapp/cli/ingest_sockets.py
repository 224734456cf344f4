"""`streamapp ingest socket` and `listen`: line-delimited text from connections."""

import logging
from pathlib import Path
from typing import Any

import click

from streamapp.cli.ingesting import Ticker, common_options, log_to_stderr, run_as_owner, tell
from streamapp.receivers.live import LiveReceiver, LiveSummary
from streamapp.receivers.sockets import ListenReceiver, SocketReceiver

__all__ = ["listen", "socket"]

_WAL = click.option(
    "--wal",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep what comes in here until it is published: a crash then loses none of it.",
)


class _Address(click.ParamType):
    """`HOST:PORT`."""

    name = "host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


@click.command()
@click.argument("address", metavar="HOST:PORT", type=_Address())
@common_options
@_WAL
@click.option("--once", is_flag=True, help="End when the other side closes the connection.")
def socket(
    address: tuple[str, int], session_timeout: float, as_json: bool, once: bool, **options: Any
) -> None:
    """Connect to HOST:PORT and publish the lines that come.

    Unreliable: what was received and not yet published is lost in a crash, unless --wal keeps it;
    what the other side says while nobody is connected is lost in any case. A connection that ends
    is made again.
    """
    host, port = address
    ticker = Ticker(f"{host}:{port}")
    _run(
        SocketReceiver(host, port, once=once, on_progress=_telling(ticker), **_plain(options)),
        session_timeout,
        as_json,
    )


@click.command()
@click.argument("port", type=click.IntRange(0, 65_535))
@common_options
@_WAL
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 lets everybody in the network publish.",
)
def listen(port: int, session_timeout: float, as_json: bool, host: str, **options: Any) -> None:
    """Listen on PORT and publish the lines that everybody sends who connects.

    Unreliable: what was received and not yet published is lost in a crash, unless --wal keeps it. A
    sender that closes its side of the connection and then reads its end knows that its lines are
    safe; one that sees it reset does not.
    """
    ticker = Ticker(f"port {port}")
    _run(
        ListenReceiver(port, host=host, on_progress=_telling(ticker), **_plain(options)),
        session_timeout,
        as_json,
    )


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    log = options.pop("wal")
    return {**options, "log": log}


def _telling(ticker: Ticker) -> Any:
    return lambda summary: ticker(summary.lines)


def _run(receiver: LiveReceiver, session_timeout: float, as_json: bool) -> None:
    log_to_stderr(logging.INFO)
    click.echo(f"{receiver.summary.source} is an unreliable source: {receiver.promise}", err=True)
    run_as_owner(receiver, session_timeout)
    tell(receiver.summary, _sentence(receiver.summary), as_json)


def _sentence(summary: LiveSummary) -> str:
    parts = [f"{summary.lines:,} lines of {summary.source} published to {summary.topic}"]
    parts.append(f"from {summary.connections:,} connections")
    if summary.oversized:
        parts.append(f"{summary.oversized:,} too long and sent to {summary.topic}-dead-letters")
    if summary.cut:
        parts.append(f"{summary.cut:,} left out, cut by connections that broke")
    if summary.seconds:
        parts.append(f"{summary.lines / summary.seconds:,.0f} a second")
    return ", ".join(parts)
