"""ApiVersions, Metadata, FindCoordinator, DescribeCluster: who is there, who does what."""

from __future__ import annotations

from typing import Any, Final

from ..errors import ErrorCode, Refused
from ..events import TopicCreated
from ..log import PartitionLog
from ..protocol import API_VERSIONS, APIS, Answer, Call, Request
from ..state import NODE_ID, State
from ..topics import Topic, check_name

_API_KEYS: Final = tuple(
    {
        "api_key": api.key,
        "min_version": api.first if api.advertised is None else api.advertised,
        "max_version": api.last,
    }
    for api in APIS
)


def api_versions(state: State, request: Request, call: Call) -> Answer:
    """ApiVersions; to an unknown version, version 0 with the error and the list (KIP-511)."""
    error = ErrorCode.unsupported_version if call.version < 0 else ErrorCode.none
    return {"error_code": error, "api_keys": _API_KEYS}


def metadata(state: State, request: Request, call: Call) -> Answer:
    """Metadata; unknown topics are created when both sides want that."""
    asked = request.topics
    # Version 0 asks for everything with an empty list, later ones with null.
    if asked is None or (call.version == 0 and not asked):
        topics = [_topic(topic) for topic in state.topics]
    else:
        create = state.config.auto_create and getattr(request, "allow_auto_topic_creation", True)
        topics = [_asked(state, each.name, create) for each in asked]
    return {
        "brokers": (_broker(state, call),),
        "cluster_id": state.cluster_id,
        "controller_id": NODE_ID,
        "topics": topics,
    }


def _asked(state: State, name: str, create: bool) -> dict[str, Any]:
    topic = state.topics.get(name)
    if topic is None:
        try:
            check_name(name)
            if not create:
                raise Refused(ErrorCode.unknown_topic_or_partition)
            partitions = state.config.default_partitions
            state.topics.check_new(name, partitions, {})
            state.record(TopicCreated(name, state.topics.next_id, partitions, {}))
        except Refused as refused:
            return {"error_code": refused.code, "name": name}
        topic = state.topics.topic(name)
    return _topic(topic)


def _topic(topic: Topic) -> dict[str, Any]:
    return {"name": topic.name, "partitions": [_partition(log) for log in topic.logs]}


def _partition(log: PartitionLog) -> dict[str, Any]:
    nodes = (NODE_ID,)
    return {
        "partition_index": log.partition,
        "leader_id": NODE_ID,
        "leader_epoch": 0,
        "replica_nodes": nodes,
        "isr_nodes": nodes,
    }


def _broker(state: State, call: Call) -> dict[str, Any]:
    return {
        "node_id": NODE_ID,
        "broker_id": NODE_ID,
        "host": call.here,
        "port": state.port,
    }


def _refuse_metadata(request: Request, error: ErrorCode) -> Answer:
    names = [each.name for each in request.topics or ()]
    return {"topics": [{"error_code": error, "name": name} for name in names]}


def find_coordinator(state: State, request: Request, call: Call) -> Answer:
    """FindCoordinator: this broker coordinates all groups and transactions."""
    if getattr(request, "key_type", 0) not in (0, 1):
        return _refuse_coordinator(request, ErrorCode.invalid_request)
    here = {"node_id": NODE_ID, "host": call.here, "port": state.port}
    return {
        **here,
        "coordinators": [{"key": key, **here} for key in getattr(request, "coordinator_keys", ())],
    }


def _refuse_coordinator(request: Request, error: ErrorCode) -> Answer:
    nowhere = {"error_code": error, "error_message": error.name, "node_id": -1, "port": -1}
    keys = getattr(request, "coordinator_keys", ())
    return {**nowhere, "coordinators": [{"key": key, **nowhere} for key in keys]}


def describe_cluster(state: State, request: Request, call: Call) -> Answer:
    """DescribeCluster (KIP-700)."""
    return {
        "cluster_id": state.cluster_id,
        "controller_id": NODE_ID,
        "brokers": (_broker(state, call),),
    }


def _refuse(request: Request, error: ErrorCode) -> Answer:
    return {"error_code": error, "api_keys": _API_KEYS}


HANDLERS: Final = {
    API_VERSIONS.name: api_versions,
    "Metadata": metadata,
    "FindCoordinator": find_coordinator,
    "DescribeCluster": describe_cluster,
}
REFUSALS: Final = {
    API_VERSIONS.name: _refuse,
    "Metadata": _refuse_metadata,
    "FindCoordinator": _refuse_coordinator,
    "DescribeCluster": _refuse,
}
