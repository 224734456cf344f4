"""The assignor of the consumer group: what members say of themselves, and what they are told.

Tasks are assigned, not partitions: the partitions of one number go together, so that co-partitioned
topics stay so. Which tasks are standbys travels in the assignment's user data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from streamapp.engine.assignment import Member, Share, assign_tasks

__all__ = ["TaskAssignor"]


class TaskAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """The assignor of one topology on one worker; aiokafka takes an instance in place of a class.

    Arguments:
        member: says which tasks this worker has and follows, and how far its stores are.
        known: partition counts, for topics of which this worker's client has no metadata at the
            moment: a request for it has failed, and aiokafka asks again much later.
        replicas: standbys of each task, if this worker leads the group.
        acceptable_lag: as in `assign_tasks`.
    """

    name = "streamapp-tasks"
    version = 0

    def __init__(
        self,
        member: Callable[[], Member],
        known: Mapping[str, int],
        replicas: int = 0,
        acceptable_lag: int = 0,
    ) -> None:
        self._member = member
        self._known = known
        self._replicas = replicas
        self._acceptable_lag = acceptable_lag
        #: What was assigned to this member last, partitions aside.
        self.standby: frozenset[int] = frozenset()
        self.warming: frozenset[int] = frozenset()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what this member says of itself when it joins."""
        return ConsumerProtocolMemberMetadata(
            self.version, sorted(topics), _encode_member(self._member())
        )

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Assign the tasks of the topics that the members subscribe to."""
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        partitions = {
            topic: cluster.partitions_for_topic(topic) or set(range(self._known.get(topic, 0)))
            for topic in topics
        }
        tasks = set().union(*partitions.values()) if partitions else set()
        shares = assign_tasks(
            tasks,
            {name: _decode_member(metadata.user_data) for name, metadata in members.items()},
            replicas=self._replicas,
            acceptable_lag=self._acceptable_lag,
        )
        return {
            name: ConsumerProtocolMemberAssignment(
                self.version,
                [
                    (topic, [task for task in share.active if task in partitions[topic]])
                    for topic in topics
                    if topic in members[name].subscription
                ],
                _encode_share(share),
            )
            for name, share in shares.items()
        }

    def on_assignment(self, assignment: Any) -> None:
        """Keep what is to be followed; aiokafka calls this before `on_partitions_assigned`."""
        told = _read(assignment.user_data)
        self.standby = _tasks(told, "standby")
        self.warming = _tasks(told, "warming")


def _encode_member(member: Member) -> bytes:
    said = {
        "stores": {str(task): member.stores[task] for task in sorted(member.stores)},
        "active": sorted(member.active),
        "standby": sorted(member.standby),
        "warming": sorted(member.warming),
    }
    return json.dumps(said).encode()


def _decode_member(user_data: bytes | None) -> Member:
    """Return what a member says; one that says nothing readable has no stores."""
    said = _read(user_data)
    try:
        stores = {int(task): int(position) for task, position in said.get("stores", {}).items()}
    except (ValueError, TypeError, AttributeError):
        stores = {}
    return Member(stores, _tasks(said, "active"), _tasks(said, "standby"), _tasks(said, "warming"))


def _encode_share(share: Share) -> bytes:
    return json.dumps({"standby": share.standby, "warming": share.warming}).encode()


def _read(user_data: bytes | None) -> dict[str, Any]:
    try:
        said = json.loads(user_data or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _tasks(said: Mapping[str, Any], name: str) -> frozenset[int]:
    found = said.get(name)
    return (
        frozenset(t for t in found if isinstance(t, int))
        if isinstance(found, list)
        else frozenset()
    )
