"""A proxy before an Apache Kafka broker, for faults that a broker does not offer on demand.

It understands just enough of the protocol to drop connections, to answer a request with an error in
the broker's place, and to let a request through and lose its answer: then the client cannot know the
outcome. Only connections of the workers are meddled with, so that brokers among themselves, the load
and the oracle are left alone: they are those of aiokafka's default client ids, which producers and
readers have, and those of members of the application's groups.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kio.schema.errors import ErrorCode

from streamapp.broker.api import REFUSALS
from streamapp.broker.errors import Malformed
from streamapp.broker.protocol import BY_KEY, read_header, read_request, write_answer

__all__ = ["GROUPS", "Proxy"]

HOST = "127.0.0.1"
#: What the names of groups begin with, and so the client ids of their members.
GROUPS = "chaos-app-"
_MEDDLED = (b"aiokafka", GROUPS.encode())
_MOST_BYTES = 256 << 20


@dataclass(slots=True)
class _Fault:
    """The next requests of an API are refused, or without an error their answers are lost."""

    api: str
    left: int
    error: ErrorCode | None = None
    met: bool = False


class Proxy:
    """Passes connections on to `port` of this host; listens on `self.port` once it is started."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.port = 0
        #: Requests that were answered in the broker's place, and answers that were lost.
        self.refused: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.dropped = 0
        self._target = target
        self._links: set[_Link] = set()
        self._faults: list[_Fault] = []
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Drop everything, and listen no more."""
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.drop()
        while self._links:
            await asyncio.wait([link.task for link in self._links])

    # ------------------------------------------------------------------ faults

    def drop_connections(self) -> None:
        """Reset every connection of the workers."""
        for link in list(self._links):
            if link.meddled:
                self.dropped += 1
                link.drop()

    def refuse(self, api: str, error: int, times: int) -> None:
        """Answer the next requests of an API with an error; the broker never sees them."""
        self._faults.append(_Fault(api, times, ErrorCode(error)))

    def lose_answers(self, api: str, times: int) -> None:
        """Let the next requests of an API through, and drop the connection before their answers."""
        self._faults.append(_Fault(api, times))

    def calm(self) -> int:
        """Meddle with nothing from here on; return how many faults nobody has met."""
        unmet = sum(not fault.met for fault in self._faults)
        self._faults.clear()
        return unmet

    def take_refusal(self, api: str) -> ErrorCode | None:
        """Use up a refusal."""
        fault = self._take(api, refusal=True)
        if fault is None:
            return None
        self.refused[api] += 1
        return fault.error

    def take_loss(self, api: str) -> bool:
        """Use up a loss."""
        if self._take(api, refusal=False) is None:
            return False
        self.lost[api] += 1
        return True

    def _take(self, api: str, *, refusal: bool) -> _Fault | None:
        for fault in self._faults:
            if fault.api == api and fault.left and (fault.error is not None) is refusal:
                fault.left -= 1
                fault.met = True
                return fault
        return None

    # ------------------------------------------------------------------ connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(self, reader, writer, task)
        self._links.add(link)
        try:
            await link.run(self._target())
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._links.discard(link)
            link.drop()


class _Link:
    """One connection through the proxy, both of its halves."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        self.task = task
        self.meddled = False
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._upstream: asyncio.StreamWriter | None = None
        #: Correlation ids whose answers are lost.
        self._losing: set[int] = set()

    async def run(self, port: int) -> None:
        """Pass frames in both directions until one side ends."""
        answers, self._upstream = await asyncio.open_connection(HOST, port)
        halves = {
            asyncio.ensure_future(self._requests(self._upstream)),
            asyncio.ensure_future(self._answers(answers)),
        }
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    def drop(self) -> None:
        """Reset both halves."""
        for writer in (self._writer, self._upstream):
            if writer is not None:
                writer.transport.abort()

    async def _requests(self, upstream: asyncio.StreamWriter) -> None:
        while True:
            frame = await _frame(self._reader)
            if self._meddle(frame):
                continue
            upstream.write(len(frame).to_bytes(4) + frame)
            await upstream.drain()

    def _meddle(self, frame: bytes) -> bool:
        """Whether a request was answered here."""
        api = BY_KEY.get(int.from_bytes(frame[:2]))
        length = int.from_bytes(frame[8:10], signed=True)
        if api is None or length < 0 or not frame[10 : 10 + length].startswith(_MEDDLED):
            return False
        self.meddled = True
        error = self._proxy.take_refusal(api.name)
        if error is not None:
            with contextlib.suppress(Malformed, KeyError):
                call, start = read_header(frame, "", "")
                answer = REFUSALS[api.name](read_request(call, frame, start), error)
                self._writer.write(write_answer(call, answer))
                return True
        if self._proxy.take_loss(api.name):
            self._losing.add(int.from_bytes(frame[4:8]))
        return False

    async def _answers(self, answers: asyncio.StreamReader) -> None:
        while True:
            frame = await _frame(answers)
            if int.from_bytes(frame[:4]) in self._losing:
                self.drop()
                return
            self._writer.write(len(frame).to_bytes(4) + frame)
            await self._writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4))
    if size > _MOST_BYTES:
        raise OSError(f"a frame of {size} bytes")
    return await reader.readexactly(size)
