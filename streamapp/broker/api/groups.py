"""JoinGroup, SyncGroup, Heartbeat, LeaveGroup, and the administration of groups."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable
from typing import Any, Final

from ..errors import ErrorCode, Refused
from ..members import Group, GroupState, Joined, Synced
from ..protocol import Answer, Call, Request, milliseconds
from ..rebalances import JoinRequest
from ..state import State


def join_group(state: State, request: Request, call: Call) -> Answer | Awaitable[Answer]:
    """JoinGroup: waits until all members have joined."""
    session = milliseconds(request.session_timeout)
    rebalance = milliseconds(request.rebalance_timeout) if call.version >= 1 else session
    joined = state.groups.join(
        JoinRequest(
            request.group_id,
            request.member_id,
            getattr(request, "group_instance_id", None),
            call.client_id,
            call.peer,
            session,
            rebalance,
            request.protocol_type,
            {each.name: each.metadata for each in request.protocols},
            id_first=call.version >= 4,
        )
    )
    if isinstance(joined, Future):
        return _later_joined(joined)
    return _joined(joined)


async def _later_joined(joined: Future[Joined]) -> Answer:
    return _joined(await joined)


def _joined(joined: Joined) -> Answer:
    return {
        "error_code": joined.error,
        "generation_id": joined.generation,
        "protocol_type": joined.protocol_type,
        "protocol_name": joined.protocol or "",
        "leader": joined.leader,
        "member_id": joined.member_id,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "metadata": metadata}
            for member_id, instance_id, metadata in joined.members
        ],
    }


def _refuse_join(request: Request, error: ErrorCode) -> Answer:
    return _joined(Joined(error, request.member_id))


def sync_group(state: State, request: Request, call: Call) -> Answer | Awaitable[Answer]:
    """SyncGroup: waits until the leader has sent the assignments."""
    synced = state.groups.sync(
        request.group_id,
        request.member_id,
        request.generation_id,
        getattr(request, "group_instance_id", None),
        {each.member_id: each.assignment for each in request.assignments},
        protocol_type=getattr(request, "protocol_type", None),
        protocol=getattr(request, "protocol_name", None),
    )
    if isinstance(synced, Future):
        return _later_synced(synced)
    return _synced(synced)


async def _later_synced(synced: Future[Synced]) -> Answer:
    return _synced(await synced)


def _synced(synced: Synced) -> Answer:
    return {
        "error_code": synced.error,
        "protocol_type": synced.protocol_type,
        "protocol_name": synced.protocol,
        "assignment": synced.assignment,
    }


def heartbeat(state: State, request: Request, call: Call) -> Answer:
    """Heartbeat: a member is there, and hears whether it has to join again."""
    return {
        "error_code": state.groups.heartbeat(
            request.group_id,
            request.member_id,
            request.generation_id,
            getattr(request, "group_instance_id", None),
        )
    }


def leave_group(state: State, request: Request, call: Call) -> Answer:
    """LeaveGroup, of one member, or from v3 on of several (KIP-345)."""
    if call.version < 3:
        return {"error_code": state.groups.leave(request.group_id, request.member_id, None)}
    return {
        "members": [
            {
                "member_id": each.member_id,
                "group_instance_id": each.group_instance_id,
                "error_code": state.groups.leave(
                    request.group_id, each.member_id, each.group_instance_id
                ),
            }
            for each in request.members
        ]
    }


def list_groups(state: State, request: Request, call: Call) -> Answer:
    """ListGroups: those with members or a past, and those that only committed offsets."""
    wanted = {each.lower() for each in getattr(request, "states_filter", ())}
    found = [(each.group_id, each.protocol_type, each.state.value) for each in state.groups]
    found += [
        (group_id, "", GroupState.empty.value)
        for group_id in state.offsets.groups()
        if state.groups.get(group_id) is None
    ]
    return {
        "groups": [
            {"group_id": group_id, "protocol_type": protocol_type, "group_state": name}
            for group_id, protocol_type, name in found
            if not wanted or name.lower() in wanted
        ]
    }


def describe_groups(state: State, request: Request, call: Call) -> Answer:
    """DescribeGroups; a group that does not exist is dead, as in Kafka."""
    return {"groups": [_described(state, group_id) for group_id in request.groups]}


def _described(state: State, group_id: str) -> dict[str, Any]:
    group = state.groups.get(group_id)
    if group is None:
        known = bool(state.offsets.of(group_id))
        return {
            "group_id": group_id,
            "group_state": (GroupState.empty if known else GroupState.dead).value,
        }
    return {
        "group_id": group_id,
        "group_state": group.state.value,
        "protocol_type": group.protocol_type,
        "protocol_data": (group.protocol or "") if group.state is GroupState.stable else "",
        "members": _members(group),
    }


def _members(group: Group) -> list[dict[str, Any]]:
    stable = group.state is GroupState.stable and group.protocol is not None
    return [
        {
            "member_id": each.member_id,
            "group_instance_id": each.instance_id,
            "client_id": each.client_id,
            "client_host": each.host,
            "member_metadata": each.protocols.get(group.protocol or "", b"") if stable else b"",
            "member_assignment": each.assignment if stable else b"",
        }
        for each in group.members.values()
    ]


def _refuse_describe(request: Request, error: ErrorCode) -> Answer:
    return {"groups": [{"group_id": group_id, "error_code": error} for group_id in request.groups]}


def delete_groups(state: State, request: Request, call: Call) -> Answer:
    """DeleteGroups (KIP-229): groups without members, and what they committed."""

    def one(group_id: str) -> ErrorCode:
        try:
            state.groups.delete(group_id, has_offsets=bool(state.offsets.of(group_id)))
        except Refused as refused:
            return refused.code
        return ErrorCode.none

    return {
        "results": [
            {"group_id": group_id, "error_code": one(group_id)} for group_id in request.groups_names
        ]
    }


def _refuse_delete(request: Request, error: ErrorCode) -> Answer:
    return {
        "results": [
            {"group_id": group_id, "error_code": error} for group_id in request.groups_names
        ]
    }


def _refuse(request: Request, error: ErrorCode) -> Answer:
    return {"error_code": error}


HANDLERS: Final = {
    "JoinGroup": join_group,
    "SyncGroup": sync_group,
    "Heartbeat": heartbeat,
    "LeaveGroup": leave_group,
    "ListGroups": list_groups,
    "DescribeGroups": describe_groups,
    "DeleteGroups": delete_groups,
}
REFUSALS: Final = {
    "JoinGroup": _refuse_join,
    "SyncGroup": _refuse,
    "Heartbeat": _refuse,
    "LeaveGroup": _refuse,
    "ListGroups": _refuse,
    "DescribeGroups": _refuse_describe,
    "DeleteGroups": _refuse_delete,
}
