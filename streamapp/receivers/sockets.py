"""Lines from sockets: one that is connected to, or all that connect here."""

import asyncio
import logging
import socket
from typing import Any, Final

from streamapp.receivers.errors import SourceError
from streamapp.receivers.live import CHUNK_BYTES, LiveReceiver

__all__ = ["ListenReceiver", "SocketReceiver"]

logger = logging.getLogger(__name__)

RECONNECT: Final = 1.0
"""Seconds before a connection that has ended is made again."""


class SocketReceiver(LiveReceiver):
    """Connects to `host:port` and publishes what comes, as Spark's `socketTextStream`.

    When the other side ends the connection it is made again after a second. A connection that
    cannot be made, or breaks, is an `OSError`: run it `supervised`.

    Args:
        host, port: where to connect to.
        topic: where the lines go.
        name: by default `socket:HOST:PORT`.
        once: end with the first connection instead of making another.
        options: those of `LiveReceiver`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        topic: str,
        *,
        name: str | None = None,
        once: bool = False,
        **options: Any,
    ) -> None:
        where = f"{host}:{port}"
        super().__init__(where, topic, name or f"socket:{where}", **options)
        self._host = host
        self._port = port
        self._once = once

    async def connections(self) -> None:
        """One after the other."""
        while True:
            reader, writer = await asyncio.open_connection(
                self._host, self._port, limit=CHUNK_BYTES
            )
            _keep_alive(writer)
            lines = await self.serve(reader, writer)
            if self._once:
                return
            if not lines:
                raise ConnectionError(f"{self._host}:{self._port} has closed without a line")
            logger.warning(
                "%s has closed the connection after %s lines: connecting anew in %g s",
                self.summary.source,
                f"{lines:,}",
                RECONNECT,
            )
            await self._clock.sleep(RECONNECT)


class ListenReceiver(LiveReceiver):
    """Listens on `port` and publishes what everybody sends who connects.

    Args:
        port: 0 is any free one; `port` tells which.
        topic: where the lines go.
        host: the address to listen on; by default this machine's own alone.
        name: by default `listen:PORT`.
        options: those of `LiveReceiver`.
    """

    def __init__(
        self,
        port: int,
        topic: str,
        *,
        host: str = "127.0.0.1",
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(f"{host}:{port}", topic, name or f"listen:{port}", **options)
        self.port = port
        self._host = host

    async def connections(self) -> None:
        """All that come, at the same time.

        Raises:
            SourceError: the address cannot be had.
        """
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _keep_alive(writer)
            task = asyncio.ensure_future(self._serve_one(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        try:
            server = await asyncio.start_server(connected, self._host, self.port, limit=CHUNK_BYTES)
        except OSError as error:
            raise SourceError(
                f"cannot listen on {self._host}:{self.port}: {error.strerror or error}"
            ) from error
        self.port = server.sockets[0].getsockname()[1]
        logger.info("listening on %s:%d", self._host, self.port)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(reader, writer)
        except OSError as error:
            logger.warning("a connection to %s:%d broke: %s", self._host, self.port, error)


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Find out about a peer that is gone without a word."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
