"""ListOffsets, DeleteRecords, OffsetForLeaderEpoch: where logs begin and end."""

from __future__ import annotations

from typing import Any, Final

from .. import batches
from ..decoding import find_timestamp, newest_timestamp
from ..errors import ErrorCode, Refused
from ..events import LogTrimmed
from ..log import PartitionLog
from ..protocol import Answer, Call, Request
from ..state import State

#: What ListOffsets may ask for in place of a timestamp.
LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3


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


def _refuse(request: Request, error: ErrorCode) -> Answer:
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
    "ListOffsets": list_offsets,
    "DeleteRecords": delete_records,
    "OffsetForLeaderEpoch": offset_for_leader_epoch,
}
REFUSALS: Final = {
    "ListOffsets": _refuse,
    "DeleteRecords": _refuse,
    "OffsetForLeaderEpoch": _refuse_epochs,
}
