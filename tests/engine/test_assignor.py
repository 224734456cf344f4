"""What members say of themselves when they join, and what they are told: over the wire and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from streamapp.engine.assignment import Member
from streamapp.engine.assignor import TaskAssignor


class Cluster:
    """The partitions that a cluster has of each topic."""

    def __init__(self, **partitions: int) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._partitions.get(topic)
        return None if count is None else set(range(count))


def member(
    stores: dict[int, int], active: Iterable[int] = (), known: Mapping[str, int] | None = None
) -> TaskAssignor:
    return TaskAssignor(lambda: Member(stores, frozenset(active)), known or {}, replicas=1)


def assigned(cluster: Cluster, **members: TaskAssignor) -> dict[str, Any]:
    """Let the first member assign, and tell the others."""
    metadata = {name: assignor.metadata(["left", "right"]) for name, assignor in members.items()}
    decoded = {m: ConsumerProtocolMemberMetadata.decode(d.encode()) for m, d in metadata.items()}
    found = next(iter(members.values())).assign(cluster, decoded)
    for name, assignment in found.items():
        told = ConsumerProtocolMemberAssignment.decode(assignment.encode())
        members[name].on_assignment(told)
    return {name: dict(assignment.assignment) for name, assignment in found.items()}


def test_partitions_of_one_number_stay_together() -> None:
    found = assigned(Cluster(left=3, right=3), a=member({2: 9}), b=member({0: 1}))
    for topics in found.values():
        assert topics["left"] == topics["right"]
    assert 2 in found["a"]["left"]
    assert 0 in found["b"]["left"]


def test_members_hear_which_tasks_to_follow_and_which_of_them_to_warm_up_for() -> None:
    busy, idle, new = member({0: 50, 1: 40}, {0, 1}), member({0: 50}), member({})
    found = assigned(Cluster(left=2), a=busy, b=idle, c=new)
    assert found["b"] == {"left": [0], "right": []}
    assert found["a"] == {"left": [1], "right": []}
    assert found["c"] == {"left": [], "right": []}
    # Both tasks are even by now: each has one standby on another member, and nothing is to move.
    assert busy.standby | idle.standby | new.standby == {0, 1}
    assert not busy.warming | idle.warming | new.warming

    owner, joined = member({0: 50, 1: 40}, {0, 1}), member({})
    found = assigned(Cluster(left=2), a=owner, b=joined)
    assert found["a"]["left"] == [0, 1]
    assert joined.standby == {0, 1}
    assert joined.warming == {1}


def test_what_a_member_was_told_it_says_again() -> None:
    warming = TaskAssignor(
        lambda: Member({3: 1}, frozenset({1}), frozenset({3, 4}), frozenset({4})), {}
    )
    told = warming.metadata(["left"]).user_data
    assert told == b'{"stores": {"3": 1}, "active": [1], "standby": [3, 4], "warming": [4]}'


def test_a_topic_that_is_not_there_yet_has_nothing_to_assign() -> None:
    found = assigned(Cluster(left=1), a=member({}))
    assert found["a"] == {"left": [0], "right": []}


def test_a_leader_whose_client_has_no_metadata_goes_by_what_it_knew_at_the_start() -> None:
    leader = member({}, known={"left": 2, "right": 2})
    assert assigned(Cluster(), a=leader)["a"] == {"left": [0, 1], "right": [0, 1]}
    # What there is now goes first.
    assert assigned(Cluster(left=3), a=leader)["a"] == {"left": [0, 1, 2], "right": [0, 1]}


def test_a_member_that_says_nothing_readable_has_no_stores() -> None:
    for said in (b"\xff{", b"[]", b'{"stores": [1], "active": 3}', b'{"stores": {"a": "b"}}'):
        stranger = ConsumerProtocolMemberMetadata(0, ["left"], said)
        found = member({}).assign(Cluster(left=2), {"a": stranger})
        assert found["a"].assignment == [("left", [0, 1])]


def test_an_assignment_without_readable_user_data_means_no_standbys() -> None:
    assignor = member({})
    for told in (b"", b"\xff", b'{"standby": 3}', b'{"standby": ["a"]}'):
        assignor.on_assignment(ConsumerProtocolMemberAssignment(0, [], told))
        assert assignor.standby == assignor.warming == frozenset()
