"""`streamapp broker`: the embedded broker as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

import click

_EPILOG = """\b
Example: a broker that keeps its data, and a topic read with kcat
    streamapp broker --port 9092 --data .streamapp/broker --auto-create &
    kcat -b 127.0.0.1:9092 -C -t words
"""


@click.command(
    "broker",
    epilog=_EPILOG,
    short_help="Run the embedded broker: Kafka's protocol in one process.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=9092,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. There is no authentication: keep it to the loopback.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to keep everything in. Without one, all is in memory and gone at the end.",
)
@click.option(
    "--memory",
    is_flag=True,
    help="Keep everything in memory, up to 1 GiB of records (the default).",
)
@click.option("--auto-create", is_flag=True, help="Create topics when clients ask for them.")
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Partitions of a topic when the client does not say.",
)
@click.option("--fsync", is_flag=True, help="Survive a power cut too, not just a killed process.")
def broker(
    port: int,
    host: str,
    data: Path | None,
    memory: bool,
    auto_create: bool,
    partitions: int,
    fsync: bool,
) -> None:
    """Run the embedded broker: Kafka's protocol in one process, for a laptop and for tests.

    It is not for production: one node, no replication, no authentication. It prints
    "listening on HOST:PORT" as soon as clients can connect, and stops on SIGINT or SIGTERM.
    """
    if memory and data is not None:
        raise click.UsageError("--memory and --data exclude each other")
    try:
        from streamapp.broker import Broker, BrokerError
    except ImportError as error:
        raise click.ClickException(str(error)) from None

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    click.echo("This is the embedded broker. It is not for production.", err=True)
    if not _is_loopback(host):
        click.echo(f"Anyone who can reach {host} can read and write everything.", err=True)
    # Every segment of every partition is an open file.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    embedded = Broker(
        port,
        data,
        host=host,
        auto_create=auto_create,
        default_partitions=partitions,
        fsync=fsync,
    )

    async def run() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        async with embedded:
            print(f"listening on {embedded.bootstrap}", flush=True)
            await stopped.wait()

    try:
        asyncio.run(run())
    except BrokerError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(broker())
