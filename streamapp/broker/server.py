"""Connections: frames in, answers out, one request of a connection at a time, in order.

A connection that sends what cannot be read is closed, with the reason in the log; no other one
notices. What a connection may make the broker hold is bounded: one request of limited size, what the
socket delivers while that one is answered, and answers only as fast as the client reads them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from struct import Struct
from typing import Any, Final

from .api import HANDLERS, REFUSALS, Response
from .errors import ErrorCode, Malformed
from .protocol import Call, Request, read_header, read_request, write_answer, write_body
from .state import State

log = logging.getLogger(__name__)

_SIZE = Struct(">i")
#: How much is read ahead while a request waits for its answer.
_READ_AHEAD: Final = 1 << 16
_ANY_ADDRESS: Final = ("", "0.0.0.0", "::")


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._state = server.state
        self._transport: asyncio.Transport
        self._peer = ""
        self._here = ""
        self._received = bytearray()
        self._busy: asyncio.Task[None] | None = None
        self._blocked = False
        self._closed = False

    # -- called by the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._peer = f"/{peer[0]}" if peer else ""
        self._here = self._state.host
        if self._here in _ANY_ADDRESS:
            # Clients are to come back to the address under which they have found this broker.
            self._here = transport.get_extra_info("sockname")[0]
        if not self._server.admit(self):
            self._close("there are too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._server.connections.discard(self)
        self._server.pending -= len(self._received)
        self._received = bytearray()
        if self._busy is not None:
            self._busy.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._server.pending += len(data)
        if self._server.pending > self._state.config.max_pending_bytes:
            self._close("all connections together have sent too much that is unanswered")
            return
        if self._busy is None and not self._blocked:
            self._proceed()
        elif len(self._received) > _READ_AHEAD:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self._busy is None:
            self._proceed()

    # -- requests ------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close the connection now, whatever is on its way."""
        self._closed = True
        self._transport.abort()

    def _close(self, reason: str) -> None:
        if not self._closed:
            log.warning("closed the connection of %s: %s", self._peer, reason)
            self.abort()

    def _proceed(self) -> None:
        """Answer requests while there are whole ones and none has to wait."""
        received = self._received
        start = 0
        limit = self._state.config.max_request_bytes
        while self._busy is None and not self._blocked and not self._closed:
            if len(received) - start < 4:
                break
            (size,) = _SIZE.unpack_from(received, start)
            if not 8 <= size <= limit:
                self._close(f"a request of {size} bytes, 8 to {limit} are allowed")
                break
            if len(received) - start - 4 < size:
                break
            with memoryview(received) as view:
                frame = bytes(view[start + 4 : start + 4 + size])
            start += 4 + size
            self._take(frame)
        if start:
            del received[:start]
            self._server.pending -= start
        if not self._closed and self._busy is None and not self._blocked:
            self._transport.resume_reading()

    def _take(self, frame: bytes) -> None:
        try:
            call, start = read_header(frame, self._peer, self._here)
            request = None if call.version < 0 else read_request(call, frame, start)
            if self._state.faults.active:
                self._wait(self._handle_faulty(call, request))
                return
            response = self._handle(call, request)
            if isinstance(response, Awaitable):
                self._wait(self._answer_later(call, request, response))
            else:
                self._answer(call, response)
        except Malformed as error:
            self._close(str(error))

    def _handle(self, call: Call, request: Request) -> Response | Awaitable[Response]:
        try:
            return HANDLERS[call.api.name](self._state, request, call)
        except Malformed:
            raise
        except Exception:
            return self._failed(call, request)

    def _failed(self, call: Call, request: Request) -> Response:
        log.exception("%s v%d of %s failed", call.api.name, call.version, call.client_id)
        return REFUSALS[call.api.name](request, ErrorCode.unknown_server_error)

    async def _answer_later(
        self, call: Call, request: Request, response: Awaitable[Response]
    ) -> None:
        try:
            answer = await response
        except Exception:
            answer = self._failed(call, request)
        self._answer(call, answer)

    async def _handle_faulty(self, call: Call, request: Request) -> None:
        faults = self._state.faults
        name, client = call.api.name, call.client_id
        seconds = faults.take_delay(name, client)
        if seconds:
            await asyncio.sleep(seconds)
        drop = faults.take_drop(name, client)
        if drop == "before":
            self.abort()
            return
        error = faults.take_fail(name, client)
        if error is not None:
            self._answer(call, REFUSALS[name](request, error))
            return
        try:
            response = self._handle(call, request)
        except Malformed as malformed:
            self._close(str(malformed))
            return
        if isinstance(response, Awaitable):
            response = await response
        if drop == "after":
            self.abort()
        else:
            self._answer(call, response)

    def _answer(self, call: Call, response: Response) -> None:
        if response is None or self._closed:
            return
        if isinstance(response, list):
            self._transport.write(write_body(call, response))
        else:
            self._transport.write(write_answer(call, response))

    def _wait(self, work: Any) -> None:
        self._busy = asyncio.get_running_loop().create_task(work)
        self._busy.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("a request of %s failed", self._peer, exc_info=error)
            self.abort()
        elif not self._closed and not self._blocked:
            self._proceed()


class Server:
    """The listening socket and its connections."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.connections: set[Connection] = set()
        #: Bytes received on all connections that are not yet taken as requests.
        self.pending = 0
        self._listening: asyncio.Server | None = None

    def admit(self, connection: Connection) -> bool:
        """Whether one more connection is allowed; it is counted if so."""
        if len(self.connections) >= self.state.config.max_connections:
            return False
        self.connections.add(connection)
        return True

    async def listen(self, host: str, port: int) -> int:
        """Accept connections; returns the port. OSError if the address is not to be had."""
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), host, port, reuse_address=True, backlog=256
        )
        return int(self._listening.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in tuple(self.connections):
            connection.abort()
