"""Fetch: records go out, at once or when there are some; nothing polls while nothing comes.

The answer is encoded here by hand, as its schema has it up to the last version that is not
flexible: it is most of the traffic, and the batches in it are only copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from struct import Struct
from typing import Final

from .. import batches
from ..errors import ErrorCode, Refused
from ..log import Aborted, Entry, PartitionLog
from ..protocol import Answer, Call, Request, milliseconds, pack_string
from ..state import State

_I32 = Struct(">i")
_I64 = Struct(">q")
_THROTTLE_ERROR_SESSION = Struct(">ihi")
_FETCHED = Struct(">ihqq")
_ABORTED = Struct(">qq")


def fetch(state: State, request: Request, call: Call) -> bytes | Awaitable[bytes]:
    """Fetch v4 to v11: what there is, or after `max_wait` if that is less than `min_bytes`.

    Fetch sessions (KIP-227) are not kept: every answer says session 0, so every request is whole.
    """
    if getattr(request, "session_id", 0):
        return _THROTTLE_ERROR_SESSION.pack(0, ErrorCode.fetch_session_id_not_found, 0) + _I32.pack(
            0
        )
    body, size, urgent = _collect(state, request, call.version)
    wait = milliseconds(request.max_wait)
    if urgent or size >= request.min_bytes or wait <= 0:
        return body
    return _FetchWait(state, request, call.version).answer(wait / 1000)


def _collect(state: State, request: Request, version: int) -> tuple[bytes, int, bool]:
    """The answer as of now, how many bytes of batches are in it, and whether it cannot wait."""
    committed = request.isolation_level == 1
    left = min(request.max_bytes, state.config.fetch_max_bytes)
    size = 0
    urgent = False
    parts: list[bytes] = [
        _THROTTLE_ERROR_SESSION.pack(0, 0, 0) if version >= 7 else _I32.pack(0),
        _I32.pack(len(request.topics)),
    ]
    add = parts.append
    for topic in request.topics:
        add(pack_string(topic.topic))
        add(_I32.pack(len(topic.partitions)))
        for each in topic.partitions:
            try:
                log = state.topics.log(topic.topic, each.partition)
                if each.current_leader_epoch > batches.LEADER_EPOCH if version >= 9 else False:
                    raise Refused(ErrorCode.unknown_leader_epoch)
                log.check_offset(each.fetch_offset)
            except Refused as refused:
                urgent = True
                add(_fetched(version, each.partition, refused.code, None, committed, (), b""))
                continue
            limit = log.limit(committed=committed)
            found: list[Entry] = []
            if each.fetch_offset < limit and (left > 0 or size == 0):
                room = min(left, each.partition_max_bytes)
                found = log.entries[
                    log.find(each.fetch_offset, limit, room, at_least_one=size == 0)
                ]
            data = log.read(found)
            size += len(data)
            left -= len(data)
            aborted = (
                log.aborted_in(each.fetch_offset, found[-1].last + 1)
                if committed and found and log.aborted
                else ()
            )
            add(_fetched(version, each.partition, ErrorCode.none, log, committed, aborted, data))
    return b"".join(parts), size, urgent or not request.topics


def _fetched(
    version: int,
    partition: int,
    error: ErrorCode,
    log: PartitionLog | None,
    committed: bool,
    aborted: Sequence[Aborted],
    data: bytes,
) -> bytes:
    if log is None:
        parts = [_FETCHED.pack(partition, error, -1, -1)]
    else:
        parts = [_FETCHED.pack(partition, error, log.end, log.stable)]
    if version >= 5:
        parts.append(_I64.pack(-1 if log is None else log.start))
    if committed:
        parts.append(_I32.pack(len(aborted)))
        parts.extend(_ABORTED.pack(each.producer_id, each.first) for each in aborted)
    else:
        parts.append(_I32.pack(-1))
    if version >= 11:
        parts.append(_I32.pack(-1))
    parts.append(_I32.pack(len(data)))
    parts.append(data)
    return b"".join(parts)


class _FetchWait:
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

    async def answer(self, seconds: float) -> bytes:
        for log in self._offsets:
            log.watchers.add(self._poke)
            # Something may have come since the answer that was not enough.
            self._poke(log)
        timer = asyncio.get_running_loop().call_later(seconds, self._finish)
        try:
            await self._enough
        finally:
            timer.cancel()
            for log in self._offsets:
                log.watchers.discard(self._poke)
        return _collect(self._state, self._request, self._version)[0]

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
        return log.available(offset, log.limit(committed=self._committed), least)

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
