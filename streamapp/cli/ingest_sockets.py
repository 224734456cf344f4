"""`streamapp ingest socket` and `listen`: line-delimited text from connections."""

from typing import Any

import click

from streamapp.cli.ingest_ticker import Ticker
from streamapp.cli.ingesting import (
    Ingestion,
    common_options,
    counted,
    examples,
    sentence,
    write_ahead_log,
)
from streamapp.receivers.live import LiveReceiver, LiveSummary
from streamapp.receivers.sockets import ListenReceiver, SocketReceiver

__all__ = ["listen", "socket"]


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


@click.command(
    short_help="Publish the lines of a connection that is made.",
    epilog=examples("socket localhost:9999 --topic log-lines"),
)
@click.argument("address", metavar="HOST:PORT", type=_Address())
@common_options(name="socket:HOST:PORT")
@write_ahead_log
@click.option("--once", is_flag=True, help="End when the other side closes the connection.")
def socket(address: tuple[str, int], ingestion: Ingestion, **options: Any) -> None:
    """Connect to HOST:PORT and publish the lines that come.

    Unreliable: what was received and not yet published is lost in a crash, unless --wal keeps it;
    what the other side says while nobody is connected is lost in any case. A connection that ends
    is made again.
    """
    host, port = address
    _run(SocketReceiver(host, port, **options), f"{host}:{port}", ingestion)


@click.command(
    short_help="Publish the lines of all who connect.",
    epilog=examples("listen 9999 --topic log-lines --wal /var/lib/ingest --wal-limit 256"),
)
@click.argument("port", type=click.IntRange(0, 65_535))
@common_options(name="listen:PORT")
@write_ahead_log
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 lets everybody in the network publish.",
)
def listen(port: int, ingestion: Ingestion, **options: Any) -> None:
    """Listen on PORT and publish the lines that everybody sends who connects.

    Unreliable: what was received and not yet published is lost in a crash, unless --wal keeps it. A
    sender that closes its side of the connection and then reads its end knows that its lines are
    safe; one that sees it reset does not.
    """
    _run(ListenReceiver(port, **options), f"port {port}", ingestion)


def _run(receiver: LiveReceiver, source: str, ingestion: Ingestion) -> None:
    click.echo(f"{receiver.summary.source} is an unreliable source: {receiver.promise}", err=True)
    ticker = Ticker(source, lambda: receiver.status, lag="bytes of the log to go")
    ingestion.run(receiver, receiver.summary, _sentence, ticker, verbose=True)


def _sentence(summary: LiveSummary) -> str:
    return sentence(
        f"{summary.lines:,} lines of {summary.source} published to {summary.topic}",
        f"from {summary.connections:,} connections",
        counted(summary.oversized, f"too long and sent to {summary.topic}-dead-letters"),
        counted(summary.cut, "left out, cut by connections that broke"),
        f"{summary.lines / summary.seconds:,.0f} a second" if summary.seconds else "",
    )
