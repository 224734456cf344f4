"""The broker as a whole: started, stopped or killed within a program, or by `streamapp broker`."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import BrokerError
from .faults import Faults
from .server import Server
from .state import BrokerConfig, State

log = logging.getLogger(__name__)


class Broker:
    """An embedded Kafka broker: one node, in this process and its event loop.

    `port` 0 picks a free one; `data` is the directory of its files, without one everything is in
    memory; `settings` are the fields of `BrokerConfig`. Not for production.

        async with Broker() as broker:
            producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    """

    def __init__(
        self,
        port: int = 0,
        data: str | Path | None = None,
        *,
        host: str = "127.0.0.1",
        auto_create: bool = False,
        default_partitions: int = 1,
        **settings: Any,
    ) -> None:
        self.config = BrokerConfig(
            auto_create=auto_create, default_partitions=default_partitions, **settings
        )
        self._host = host
        self._port = port
        if data is not None:
            raise BrokerError("a data directory is not supported yet: leave `data` out")
        # A clock that tells the time of day and never jumps.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0
        self._state = State(
            self.config, now=self._now, wake=self._wake, open_log=None, journal=None
        )
        self._server = Server(self._state)

    # -- for its user --------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        """The address that clients bootstrap from; the port is known once the broker runs."""
        return f"{self._state.host}:{self._state.port}"

    @property
    def port(self) -> int:
        """The port, once the broker runs."""
        return self._state.port

    @property
    def faults(self) -> Faults:
        """The faults that the broker is to have."""
        return self._state.faults

    async def start(self) -> None:
        """Listen; returns as soon as connections are accepted."""
        self._state.host = self._host
        self._state.port = await self._server.listen(self._host, self._port)
        due = self._state.next_deadline()
        if due is not None:
            self._wake(due)

    async def stop(self) -> None:
        """Stop cleanly: connections are closed, files flushed."""
        self._halt()
        # Let connections notice, so that nothing of this broker runs any more.
        await asyncio.sleep(0)

    def kill(self) -> None:
        """Stop as kill -9 would: what the operating system has is there, no more."""
        self._halt()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- what is due ---------------------------------------------------------------------------

    def _halt(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._server.close()

    def _now(self) -> int:
        return (time.monotonic_ns() + self._offset_ns) // 1_000_000

    def _wake(self, due: int) -> None:
        """Look again at `due` (milliseconds), if not earlier anyway."""
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        delay = max(due - self._now(), 0) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        try:
            self._state.expire()
        finally:
            due = self._state.next_deadline()
            if due is not None:
                self._wake(due)
