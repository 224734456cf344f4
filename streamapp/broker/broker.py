"""The broker as a whole: started, stopped or killed within a program, or by `streamapp broker`."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .cleaning import clean
from .faults import Faults
from .server import Server
from .state import BrokerConfig, State
from .storage import Storage

logger = logging.getLogger(__name__)


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
        self._storage = None if data is None else Storage(Path(data), fsync=self.config.fsync)
        # A clock that tells the time of day and never jumps.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0
        self._state = State(self.config, now=self._now, wake=self._wake, journal=self._storage)
        self._server = Server(self._state)
        self._cleaning: asyncio.Task[None] | None = None

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
        """Read the data directory, then listen; returns as soon as connections are accepted.

        Raises `DataDirectoryLocked`, `JournalCorrupt`, or OSError when the address is taken.
        """
        if self._storage is not None:
            self._storage.open(self._state)
        try:
            self._state.host = self._host
            self._state.port = await self._server.listen(self._host, self._port)
        except BaseException:
            self._halt()
            self._close_files()
            raise
        self._cleaning = asyncio.create_task(self._clean(), name="broker cleaning")
        due = self._state.next_deadline()
        if due is not None:
            self._wake(due)

    async def stop(self) -> None:
        """Stop cleanly: connections are closed, files flushed."""
        self._halt()
        if self._cleaning is not None:
            await asyncio.wait([self._cleaning])
            self._cleaning = None
        if self._storage is not None:
            self._storage.flush()
            for log in self._state.topics.logs():
                log.store.flush()
        self._close_files()

    def kill(self) -> None:
        """Stop as kill -9 would: what the operating system has is there, no more."""
        self._halt()
        self._close_files()

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
        if self._cleaning is not None:
            self._cleaning.cancel()
        self._server.close()

    def _close_files(self) -> None:
        if self._storage is not None:
            self._storage.close()
            for log in self._state.topics.logs():
                log.store.close()

    async def _clean(self) -> None:
        """Clean the logs and tidy the journal now and then."""
        while True:
            await asyncio.sleep(self.config.cleanup_interval_seconds)
            try:
                self._state.mend()
                await clean(self._state)
                if self._storage is not None:
                    self._storage.tidy(self._state.snapshot())
            except Exception:
                logger.exception("cleaning the logs failed; it is tried again later")

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
