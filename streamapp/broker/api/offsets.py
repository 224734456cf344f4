"""OffsetCommit, OffsetFetch, OffsetDelete: what groups have consumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import ErrorCode
from ..events import Committed, OffsetsCommitted, OffsetsDeleted, TopicPartition
from ..offsets import MAX_METADATA_BYTES
from ..protocol import Answer, Call, Request
from ..state import State

Errors = Mapping[TopicPartition, ErrorCode]


def offset_commit(state: State, request: Request, call: Call) -> Answer:
    """OffsetCommit, by a member of the group, or by anybody while it has none."""
    if not request.group_id:
        return commit_answer(request, ErrorCode.invalid_group_id)
    error = state.groups.check_commit(
        request.group_id,
        request.member_id,
        request.generation_id_or_member_epoch,
        getattr(request, "group_instance_id", None),
    )
    if error is not ErrorCode.none:
        return commit_answer(request, error)
    offsets, errors = committed_offsets(state, request)
    if offsets:
        state.record(OffsetsCommitted(request.group_id, offsets))
    return commit_answer(request, ErrorCode.none, errors)


def committed_offsets(
    state: State, request: Request
) -> tuple[list[tuple[str, int, Committed]], dict[TopicPartition, ErrorCode]]:
    """What a request wants committed, and what of it cannot be."""
    now = state.now()
    offsets: list[tuple[str, int, Committed]] = []
    errors: dict[TopicPartition, ErrorCode] = {}
    for topic in request.topics:
        known = state.topics.get(topic.name)
        for each in topic.partitions:
            metadata = each.committed_metadata or ""
            if known is None or not 0 <= each.partition_index < len(known.logs):
                errors[topic.name, each.partition_index] = ErrorCode.unknown_topic_or_partition
            elif len(metadata) > MAX_METADATA_BYTES:
                errors[topic.name, each.partition_index] = ErrorCode.offset_metadata_too_large
            else:
                epoch = getattr(each, "committed_leader_epoch", -1)
                committed = Committed(each.committed_offset, epoch, metadata, now)
                offsets.append((topic.name, each.partition_index, committed))
    return offsets, errors


def commit_answer(request: Request, error: ErrorCode, errors: Errors | None = None) -> Answer:
    """One error for every partition, but for those in `errors`."""
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {
                        "partition_index": each.partition_index,
                        "error_code": (errors or {}).get((topic.name, each.partition_index), error),
                    }
                    for each in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


def offset_fetch(state: State, request: Request, call: Call) -> Answer:
    """OffsetFetch v1 to v7; from v7 on a reader may insist on stable offsets (KIP-447)."""
    known = state.offsets.of(request.group_id)
    stable = getattr(request, "require_stable", False)
    if request.topics is None:
        asked: dict[str, list[int]] = {}
        for topic, partition in known:
            asked.setdefault(topic, []).append(partition)
    else:
        asked = {topic.name: list(topic.partition_indexes) for topic in request.topics}

    def one(topic: str, partition: int) -> dict[str, Any]:
        committed = known.get((topic, partition))
        if stable and state.offsets.is_pending(request.group_id, (topic, partition)):
            return _nothing(partition, ErrorCode.unstable_offset_commit)
        if committed is None:
            return _nothing(partition, ErrorCode.none)
        return {
            "partition_index": partition,
            "committed_offset": committed.offset,
            "committed_leader_epoch": committed.leader_epoch,
            "metadata": committed.metadata,
        }

    return {
        "topics": [
            {"name": topic, "partitions": [one(topic, each) for each in partitions]}
            for topic, partitions in asked.items()
        ]
    }


def _nothing(partition: int, error: ErrorCode) -> dict[str, Any]:
    return {
        "partition_index": partition,
        "committed_offset": -1,
        "metadata": "",
        "error_code": error,
    }


def _refuse_fetch(request: Request, error: ErrorCode) -> Answer:
    if request.__version__ >= 2:  # one word for all of the group, and no partitions
        return {"error_code": error, "topics": []}
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [_nothing(each, error) for each in topic.partition_indexes],
            }
            for topic in request.topics
        ],
    }


def offset_delete(state: State, request: Request, call: Call) -> Answer:
    """OffsetDelete (KIP-496): forget offsets; not while members of the group may need them."""
    group = state.groups.get(request.group_id)
    known = state.offsets.of(request.group_id)
    if group is None and not known:
        return {"error_code": ErrorCode.group_id_not_found}
    if group is not None and group.members:
        return {
            "topics": [
                {
                    "name": topic.name,
                    "partitions": [
                        {
                            "partition_index": each.partition_index,
                            "error_code": ErrorCode.group_subscribed_to_topic,
                        }
                        for each in topic.partitions
                    ],
                }
                for topic in request.topics
            ]
        }
    gone = [
        (topic.name, each.partition_index)
        for topic in request.topics
        for each in topic.partitions
        if (topic.name, each.partition_index) in known
    ]
    if gone:
        state.record(OffsetsDeleted(request.group_id, gone))
    return commit_answer(request, ErrorCode.none)


def _refuse_delete(request: Request, error: ErrorCode) -> Answer:
    return {"error_code": error}


HANDLERS: Final = {
    "OffsetCommit": offset_commit,
    "OffsetFetch": offset_fetch,
    "OffsetDelete": offset_delete,
}
REFUSALS: Final = {
    "OffsetCommit": commit_answer,
    "OffsetFetch": _refuse_fetch,
    "OffsetDelete": _refuse_delete,
}
