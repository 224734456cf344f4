"""Fetch: records go out, at once or when there are some; nothing polls while nothing comes.

The answer is encoded here by hand, as its schema has it up to the last version that is not
flexible: it is most of the traffic, and the batches in it are only copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from struct import Struct
from typing import Any, Final

from .. import batches
from ..errors import ErrorCode, Refused
from ..log import Aborted, Entry, PartitionLog
from ..protocol import Answer, Body, Call, Request, milliseconds, pack_string
from ..state import State

_I32 = Struct(">i")
_I64 = Struct(">q")
_THROTTLE_ERROR_SESSION = Struct(">ihi")
_FETCHED = Struct(">ihqq")
_ABORTED = Struct(">qq")
_NOTHING: Final = _I32.pack(0)
_NO_REPLICA: Final = _I32.pack(-1)


def fetch(state: State, request: Request, call: Call) -> Body | Awaitable[Body]:
    """Fetch v4 to v11: what there is, or after `max_wait` if that is less than `min_bytes`.

    Fetch sessions (KIP-227) are not kept: every answer says session 0, so every request is whole.
    """
    if getattr(request, "session_id", 0):
        return [_THROTTLE_ERROR_SESSION.pack(0, ErrorCode.fetch_session_id_not_found, 0), _NOTHING]
    answer = _Answer(state, request, call.version)
    wait = milliseconds(request.max_wait)
    if answer.cannot_wait or answer.size >= request.min_bytes or wait <= 0:
        return answer.parts
    return _Wait(state, request, call.version).answer(wait / 1000)


class _Answer:
    """The answer as of now; `size` counts the bytes of batches in it."""

    def __init__(self, state: State, request: Request, version: int) -> None:
        self._topics = state.topics
        self._version = version
        self._committed = request.isolation_level == 1
        self._left = min(request.max_bytes, state.config.fetch_max_bytes)
        self.size = 0
        self.cannot_wait = not request.topics
        self.parts: list[bytes] = [
            _THROTTLE_ERROR_SESSION.pack(0, 0, 0) if version >= 7 else _NOTHING,
            _I32.pack(len(request.topics)),
        ]
        for topic in request.topics:
            self.parts.append(pack_string(topic.topic))
            self.parts.append(_I32.pack(len(topic.partitions)))
            for each in topic.partitions:
                self._add(topic.topic, each)

    def _add(self, topic: str, asked: Any) -> None:
        try:
            log = self._topics.log(topic, asked.partition)
            if self._version >= 9 and asked.current_leader_epoch > batches.LEADER_EPOCH:
                raise Refused(ErrorCode.unknown_leader_epoch)
            log.check_offset(asked.fetch_offset)
        except Refused as refused:
            self.cannot_wait = True
            self._write(asked.partition, refused.code, None, (), b"")
            return
        found = self._find(log, asked)
        data = log.read(found)
        self.size += len(data)
        self._left -= len(data)
        aborted: Sequence[Aborted] = ()
        if self._committed and found and log.aborted:
            aborted = log.aborted_in(asked.fetch_offset, found[-1].last + 1)
        self._write(asked.partition, ErrorCode.none, log, aborted, data)

    def _find(self, log: PartitionLog, asked: Any) -> list[Entry]:
        limit = log.limit(committed=self._committed)
        if asked.fetch_offset >= limit or (self._left <= 0 and self.size):
            return []
        room = min(self._left, asked.partition_max_bytes)
        return log.entries[log.find(asked.fetch_offset, limit, room, at_least_one=not self.size)]

    def _write(
        self,
        partition: int,
        error: ErrorCode,
        log: PartitionLog | None,
        aborted: Sequence[Aborted],
        data: bytes,
    ) -> None:
        add = self.parts.append
        if log is None:
            end = stable = start = -1
        else:
            end, stable, start = log.end, log.stable, log.start
        add(_FETCHED.pack(partition, error, end, stable))
        if self._version >= 5:
            add(_I64.pack(start))
        add(_I32.pack(len(aborted) if self._committed else -1))
        for each in aborted:
            add(_ABORTED.pack(each.producer_id, each.first))
        if self._version >= 11:
            add(_NO_REPLICA)
        add(_I32.pack(len(data)))
        add(data)


class _Wait:
    """A fetch that waits for records; it is called by the logs it watches."""

    def __init__(self, state: State, request: Request, version: int) -> None:
        self._state = state
        self._request = request
        self._version = version
        self._committed = request.isolation_level == 1
        self._offsets: dict[PartitionLog, int] = {}
        for topic in request.topics:
            logs = state.topics.topic(topic.topic).logs
            for each in topic.partitions:
                self._offsets[logs[each.partition]] = each.fetch_offset
        self._enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answer(self, seconds: float) -> Body:
        """The answer, once there is enough, or when the time is up."""
        timer = asyncio.get_running_loop().call_later(seconds, self._finish)
        try:
            for log in self._offsets:
                log.watchers.add(self._poke)
                # Something may have come since the answer that was not enough.
                self._poke(log)
            await self._enough
        finally:
            timer.cancel()
            for log in self._offsets:
                log.watchers.discard(self._poke)
        return _Answer(self._state, self._request, self._version).parts

    def _finish(self) -> None:
        if not self._enough.done():
            self._enough.set_result(None)

    def _poke(self, log: PartitionLog) -> None:
        offset = self._offsets[log]
        if log.deleted or offset < log.start:
            self._finish()
            return
        least = max(self._request.min_bytes, 1)
        here = self._available(log, offset, least)
        if here and (here >= least or self._everywhere(least) >= least):
            self._finish()

    def _available(self, log: PartitionLog, offset: int, least: int) -> int:
        limit = log.limit(committed=self._committed)
        return log.available(offset, limit, least) if offset < limit else 0

    def _everywhere(self, least: int) -> int:
        return sum(self._available(log, offset, least) for log, offset in self._offsets.items())


def _refuse_fetch(request: Request, error: ErrorCode) -> Answer:
    return {
        "responses": [
            {
                "topic": topic.topic,
                "partitions": [
                    {
                        "partition_index": each.partition,
                        "error_code": error,
                        "high_watermark": -1,
                        "records": b"",
                    }
                    for each in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


HANDLERS: Final = {"Fetch": fetch}
REFUSALS: Final = {"Fetch": _refuse_fetch}
