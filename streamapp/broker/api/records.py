"""Produce, Fetch, ListOffsets, DeleteRecords, OffsetForLeaderEpoch: what is in the logs.

The answers to Produce and Fetch are encoded here by hand, as their schemas have it up to the last
version that is not flexible: they are most of the traffic, and the batches in them are only copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from struct import Struct
from typing import Any, Final

from .. import batches
from ..decoding import find_timestamp, newest_timestamp, require_keys
from ..errors import ErrorCode, Malformed, Refused
from ..events import LogTrimmed
from ..log import Entry, PartitionLog
from ..protocol import Answer, Call, Request, milliseconds
from ..state import State
from ..topics import Topic

_I16 = Struct(">h")
_I32 = Struct(">i")
_I64 = Struct(">q")
_THROTTLE_ERROR_SESSION = Struct(">ihi")
_PRODUCED = Struct(">ihqq")
_FETCHED = Struct(">ihqq")
_TWO_I64 = Struct(">qq")
_NO_STRING = _I16.pack(-1)

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3


def _string(value: str) -> bytes:
    encoded = value.encode()
    return _I16.pack(len(encoded)) + encoded


# -- Produce -----------------------------------------------------------------------------------


def produce(state: State, request: Request, call: Call) -> bytes | None:
    """Produce v3 to v8: append a batch to each partition; each one has an answer of its own."""
    now = state.now()
    acks = request.acks
    results: list[bytes] = [_I32.pack(len(request.topic_data))]
    for each in request.topic_data:
        results.append(_string(each.name))
        results.append(_I32.pack(len(each.partition_data)))
        topic = state.topics.get(each.name)
        for data in each.partition_data:
            try:
                if acks not in (-1, 0, 1):
                    raise Refused(ErrorCode.invalid_required_acks, f"acks={acks}")
                log, appended = _append(state, topic, each.name, data.index, data.records, now)
            except Refused as refused:
                if acks == 0:
                    # There is no answer that could say so: Kafka closes the connection too.
                    raise Malformed(
                        f"{each.name}:{data.index} was refused and acks=0: {refused}"
                    ) from None
                result = _produced(call.version, data.index, refused.code, -1, -1, -1, str(refused))
            else:
                result = _produced(
                    call.version, data.index, ErrorCode.none, *appended, log.start, None
                )
            results.append(result)
    results.append(_I32.pack(0))
    return None if acks == 0 else b"".join(results)


def _append(
    state: State, topic: Topic | None, name: str, partition: int, data: bytes | None, now: int
) -> tuple[PartitionLog, tuple[int, int]]:
    if topic is None or not 0 <= partition < len(topic.logs):
        raise Refused(ErrorCode.unknown_topic_or_partition)
    error = state.faults.take_refusal(name, partition)
    if error is not None:
        raise Refused(error, "a fault that was asked for")
    data = data or b""
    header = batches.check(data, topic.config.max_message_bytes)
    if header.is_transactional:
        state.transactions.check_batch(header.producer_id, header.producer_epoch, (name, partition))
    if topic.config.compact:
        require_keys(data)
    if state.in_memory and state.usage.memory + len(data) > state.config.max_log_bytes:
        raise Refused(
            ErrorCode.policy_violation,
            f"the logs take more than {state.config.max_log_bytes} bytes of memory: delete "
            f"records, shorten retention, or start the broker with a data directory",
        )
    log = topic.logs[partition]
    appended = log.append(data, header, now, stamp=topic.config.stamp)
    if state.config.fsync:
        log.store.flush()
    return log, (appended.base_offset, appended.time)


def _produced(
    version: int,
    partition: int,
    error: ErrorCode,
    base_offset: int,
    append_time: int,
    log_start: int,
    message: str | None,
) -> bytes:
    result = _PRODUCED.pack(partition, error, base_offset, append_time)
    if version >= 5:
        result += _I64.pack(log_start)
    if version >= 8:
        result += _I32.pack(0) + (_NO_STRING if message is None else _string(message))
    return result


def _refuse_produce(request: Request, error: ErrorCode) -> Answer:
    return {
        "responses": [
            {
                "name": topic.name,
                "partition_responses": [
                    {"index": each.index, "error_code": error, "base_offset": -1}
                    for each in topic.partition_data
                ],
            }
            for topic in request.topic_data
        ]
    }


# -- Fetch -------------------------------------------------------------------------------------


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
        add(_string(topic.topic))
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
    aborted: Any,
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
        parts.extend(_TWO_I64.pack(each.producer_id, each.first) for each in aborted)
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


# -- offsets in the log ------------------------------------------------------------------------


def list_offsets(state: State, request: Request, call: Call) -> Answer:
    """ListOffsets v1 to v7: the ends of a log, or where a time begins (KIP-79, KIP-98, KIP-734)."""
    committed = getattr(request, "isolation_level", 0) == 1

    def one(topic: str, each: Any) -> dict[str, Any]:
        try:
            log = state.topics.log(topic, each.partition_index)
            offset, timestamp = _at(log, each.timestamp, committed=committed)
        except Refused as refused:
            return {"partition_index": each.partition_index, "error_code": refused.code}
        return {
            "partition_index": each.partition_index,
            "offset": offset,
            "timestamp": timestamp,
            "leader_epoch": batches.LEADER_EPOCH if offset >= 0 else -1,
        }

    return {
        "topics": [
            {"name": topic.name, "partitions": [one(topic.name, each) for each in topic.partitions]}
            for topic in request.topics
        ]
    }


def _at(log: PartitionLog, timestamp: int, *, committed: bool) -> tuple[int, int]:
    """Offset and timestamp; -1 and -1 when there is none."""
    limit = log.limit(committed=committed)
    if timestamp == LATEST:
        return limit, -1
    if timestamp == EARLIEST:
        return log.start, -1
    if timestamp == MAX_TIMESTAMP:
        return newest_timestamp(log) or (-1, -1)
    if timestamp < 0:
        raise Refused(ErrorCode.unsupported_version, f"timestamp {timestamp}")
    return find_timestamp(log, timestamp, limit) or (-1, -1)


def _refuse_list_offsets(request: Request, error: ErrorCode) -> Answer:
    return _per_partition(request, error)


def delete_records(state: State, request: Request, call: Call) -> Answer:
    """DeleteRecords (KIP-107): let a log start later; -1 means at its end."""

    def one(name: str, each: Any) -> dict[str, Any]:
        try:
            log = state.topics.log(name, each.partition_index)
            if not state.topics.topic(name).config.delete:
                raise Refused(ErrorCode.policy_violation, "the topic is compacted, not deleted")
            offset = log.end if each.offset == -1 else each.offset
            if not 0 <= offset <= log.end:
                raise Refused(ErrorCode.offset_out_of_range)
            if offset > log.start:
                state.record(LogTrimmed(name, each.partition_index, offset))
        except Refused as refused:
            return {
                "partition_index": each.partition_index,
                "low_watermark": -1,
                "error_code": refused.code,
            }
        return {"partition_index": each.partition_index, "low_watermark": log.start}

    return {
        "topics": [
            {"name": topic.name, "partitions": [one(topic.name, each) for each in topic.partitions]}
            for topic in request.topics
        ]
    }


def offset_for_leader_epoch(state: State, request: Request, call: Call) -> Answer:
    """OffsetForLeaderEpoch (KIP-320): there was one leader epoch, and it lasts."""

    def one(name: str, each: Any) -> dict[str, Any]:
        try:
            log = state.topics.log(name, each.partition)
        except Refused as refused:
            return {"partition": each.partition, "error_code": refused.code}
        known = each.leader_epoch == batches.LEADER_EPOCH
        return {
            "partition": each.partition,
            "leader_epoch": batches.LEADER_EPOCH if known else -1,
            "end_offset": log.end if known else -1,
        }

    return {
        "topics": [
            {
                "topic": topic.topic,
                "partitions": [one(topic.topic, each) for each in topic.partitions],
            }
            for topic in request.topics
        ]
    }


def _refuse_epochs(request: Request, error: ErrorCode) -> Answer:
    return {
        "topics": [
            {
                "topic": topic.topic,
                "partitions": [
                    {"partition": each.partition, "error_code": error} for each in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


def _per_partition(request: Request, error: ErrorCode) -> Answer:
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {
                        "partition_index": each.partition_index,
                        "error_code": error,
                        "low_watermark": -1,
                    }
                    for each in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


HANDLERS: Final = {
    "Produce": produce,
    "Fetch": fetch,
    "ListOffsets": list_offsets,
    "DeleteRecords": delete_records,
    "OffsetForLeaderEpoch": offset_for_leader_epoch,
}
REFUSALS: Final = {
    "Produce": _refuse_produce,
    "Fetch": _refuse_fetch,
    "ListOffsets": _refuse_list_offsets,
    "DeleteRecords": _per_partition,
    "OffsetForLeaderEpoch": _refuse_epochs,
}
