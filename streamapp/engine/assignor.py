"""Which worker gets which task.

Tasks are assigned, not partitions: the partitions of one number go together, so that co-partitioned
topics stay so. Assignment is balanced first and sticky second: each member says which tasks' stores
it has, and gets those while it has room. The choice is a function of what the members say alone.
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

__all__ = ["TaskAssignor", "assign_tasks"]


def assign_tasks(
    tasks: Iterable[int], stores: Mapping[str, Mapping[int, int]]
) -> dict[str, list[int]]:
    """Return each member's tasks.

    Arguments:
        tasks: partition numbers.
        stores: for each member, the tasks whose stores it has, with how far they are (the sequence
            of their last checkpoint): of two members with a store, the one that is further gets it.
    """
    members = sorted(stores)
    tasks = sorted(tasks)
    if not members:
        return {}
    least, over = divmod(len(tasks), len(members))
    # The first `over` members to need it may have one task more than the others.
    room = dict.fromkeys(members, least)
    assigned: dict[str, list[int]] = {member: [] for member in members}
    claims = sorted(
        (-sequence, member, task)
        for member in members
        for task, sequence in stores[member].items()
        if task in set(tasks)
    )
    left = dict.fromkeys(tasks)
    for _, member, task in claims:
        if task not in left:
            continue
        if room[member] == 0 and over > 0 and len(assigned[member]) == least:
            over -= 1
            room[member] = 1
        if room[member] > 0:
            room[member] -= 1
            assigned[member].append(task)
            del left[task]
    for task in left:
        member = min(members, key=lambda m: (len(assigned[m]), m))
        assigned[member].append(task)
    return {member: sorted(found) for member, found in assigned.items()}


class TaskAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """The assignor of one topology on one worker; aiokafka takes an instance in place of a class.

    Arguments:
        stores: says which tasks' stores are here, and how far they are.
    """

    name = "streamapp-tasks"
    version = 0

    def __init__(self, stores: Callable[[], Mapping[int, int]]) -> None:
        self._stores = stores

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what this member says of itself when it joins."""
        user_data = json.dumps({"stores": {str(k): v for k, v in self._stores().items()}}).encode()
        return ConsumerProtocolMemberMetadata(self.version, sorted(topics), user_data)

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Assign the tasks of the topics that the members subscribe to."""
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        partitions = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        tasks = set().union(*partitions.values()) if partitions else set()
        stores = {member: _stores_of(metadata.user_data) for member, metadata in members.items()}
        return {
            member: ConsumerProtocolMemberAssignment(
                self.version,
                [
                    (topic, [task for task in found if task in partitions[topic]])
                    for topic in topics
                    if topic in members[member].subscription
                ],
                b"",
            )
            for member, found in assign_tasks(tasks, stores).items()
        }

    def on_assignment(self, assignment: Any) -> None:
        """Nothing is kept of it."""


def _stores_of(user_data: bytes | None) -> dict[int, int]:
    try:
        return {
            int(task): int(seq)
            for task, seq in json.loads(user_data or b"{}").get("stores", {}).items()
        }
    except (ValueError, AttributeError):
        return {}
