"""CreateTopics, DeleteTopics, CreatePartitions."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ..configs import TopicConfig
from ..errors import ErrorCode, Refused
from ..events import PartitionsAdded, TopicCreated, TopicDeleted
from ..protocol import Answer, Call, Request
from ..state import NODE_ID, State
from .configs import described


def create_topics(state: State, request: Request, call: Call) -> Answer:
    """CreateTopics; from v4 on, -1 asks for the default number of partitions (KIP-464)."""
    names = Counter(each.name for each in request.topics)

    def one(asked: Any) -> dict[str, Any]:
        try:
            if names[asked.name] > 1:
                raise Refused(ErrorCode.invalid_request, "Found duplicate topics in request.")
            partitions = _partitions(state, asked)
            configs = {each.name: each.value for each in asked.configs}
            state.topics.check_new(asked.name, partitions, configs)
            if not request.validate_only:
                state.record(TopicCreated(asked.name, state.topics.next_id, partitions, configs))
        except Refused as refused:
            return {
                "name": asked.name,
                "error_code": refused.code,
                "error_message": refused.message,
            }
        config = TopicConfig(configs, state.config.topic_defaults)
        return {
            "name": asked.name,
            "num_partitions": partitions,
            "replication_factor": 1,
            "configs": described(state, config, None),
        }

    return {"topics": [one(each) for each in request.topics]}


def _partitions(state: State, asked: Any) -> int:
    """The number of partitions asked for, if the rest of the request agrees with it."""
    if asked.assignments:
        if asked.num_partitions != -1 or asked.replication_factor != -1:
            raise Refused(
                ErrorCode.invalid_request,
                "Both numPartitions or replicationFactor and replicasAssignments were set.",
            )
        indexes = sorted(each.partition_index for each in asked.assignments)
        here = all(tuple(each.broker_ids) == (NODE_ID,) for each in asked.assignments)
        if indexes != list(range(len(indexes))) or not here:
            raise Refused(
                ErrorCode.invalid_replica_assignment,
                f"partitions are numbered from 0, and all of them are on broker {NODE_ID}",
            )
        return len(indexes)
    if asked.num_partitions == -1:
        partitions = state.config.default_partitions
    else:
        partitions = asked.num_partitions
    if partitions <= 0:
        raise Refused(
            ErrorCode.invalid_partitions, "Number of partitions was set to an invalid value."
        )
    if asked.replication_factor not in (-1, 1):
        raise Refused(
            ErrorCode.invalid_replication_factor,
            f"Replication factor {asked.replication_factor}: there is one broker.",
        )
    return int(partitions)


def _refuse_create(request: Request, error: ErrorCode) -> Answer:
    return {"topics": [{"name": each.name, "error_code": error} for each in request.topics]}


def delete_topics(state: State, request: Request, call: Call) -> Answer:
    """DeleteTopics, by name."""

    def one(name: str) -> dict[str, Any]:
        if name not in state.topics:
            return {
                "name": name,
                "error_code": ErrorCode.unknown_topic_or_partition,
                "error_message": "This server does not host this topic-partition.",
            }
        state.record(TopicDeleted(name))
        return {"name": name}

    return {"responses": [one(name) for name in request.topic_names]}


def _refuse_delete(request: Request, error: ErrorCode) -> Answer:
    return {"responses": [{"name": name, "error_code": error} for name in request.topic_names]}


def create_partitions(state: State, request: Request, call: Call) -> Answer:
    """CreatePartitions (KIP-195): a topic may grow, never shrink."""

    def one(asked: Any) -> dict[str, Any]:
        try:
            state.topics.check_growth(asked.name, asked.count)
            more = asked.count - len(state.topics.topic(asked.name).logs)
            if asked.assignments is not None and (
                len(asked.assignments) != more
                or any(tuple(each.broker_ids) != (NODE_ID,) for each in asked.assignments)
            ):
                raise Refused(
                    ErrorCode.invalid_replica_assignment,
                    f"{more} more partitions, all of them on broker {NODE_ID}",
                )
            if not request.validate_only:
                state.record(PartitionsAdded(asked.name, asked.count))
        except Refused as refused:
            return {
                "name": asked.name,
                "error_code": refused.code,
                "error_message": refused.message,
            }
        return {"name": asked.name}

    return {"results": [one(each) for each in request.topics]}


def _refuse_partitions(request: Request, error: ErrorCode) -> Answer:
    return {"results": [{"name": each.name, "error_code": error} for each in request.topics]}


HANDLERS: Final = {
    "CreateTopics": create_topics,
    "DeleteTopics": delete_topics,
    "CreatePartitions": create_partitions,
}
REFUSALS: Final = {
    "CreateTopics": _refuse_create,
    "DeleteTopics": _refuse_delete,
    "CreatePartitions": _refuse_partitions,
}
