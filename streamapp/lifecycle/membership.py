"""Who is in a topology's group: nothing is changed under a worker that runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupIdNotFound, NoError, for_code

from streamapp.engine.topology import Topology
from streamapp.ledger.coordination import from_coordinator
from streamapp.lifecycle.errors import LifecycleError

__all__ = ["members_of", "refuse_members"]

_COORDINATORS_PART = re.compile(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


async def members_of(admin: AIOKafkaAdminClient, group: str) -> list[str]:
    """Return the members of a consumer group: the workers' names, with their hosts.

    Raises:
        KafkaError: the coordinator does not say.
    """
    described = await from_coordinator(lambda: _describe(admin, group))
    return [
        f"{_worker(group, member['member_id'])} at {member['client_host'].lstrip('/')}"
        for member in described["members"]
    ]


async def _describe(admin: AIOKafkaAdminClient, group: str) -> dict[str, Any]:
    [response] = await admin.describe_consumer_groups([group])
    [described] = response.to_object()["groups"]
    error = for_code(described["error_code"])
    # A group that never was is described as dead; from KIP-1043 on it is not found.
    if error not in (NoError, GroupIdNotFound):
        raise error(f"the group {group} is not described")
    found: dict[str, Any] = described
    return found


def _worker(group: str, member: str) -> str:
    """Return what a member's id begins with: what the worker calls itself, before the coordinator's part."""
    return _COORDINATORS_PART.sub("", member).removeprefix(f"{group}-")


async def refuse_members(admin: AIOKafkaAdminClient, topologies: Iterable[Topology]) -> None:
    """Raise if a worker is in one of the groups.

    Raises:
        LifecycleError: with the members' names.
    """
    for topology in topologies:
        found = await members_of(admin, topology.group)
        if found:
            raise LifecycleError(
                f"the topology {topology.name} is at work: the group {topology.group} has the members "
                f"{', '.join(found)}. Stop them; a named worker that was stopped or killed is expected back and stays a "
                "member for the session timeout, one that was drained (streamapp drain NAME) does not"
            )
