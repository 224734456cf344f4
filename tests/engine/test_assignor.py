"""Which worker gets which task: every task once, as evenly as can be, and with its store."""

from __future__ import annotations

from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.assignor import TaskAssignor, assign_tasks
from tests.state.quick import QUICK

STORES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.dictionaries(st.integers(0, 20), st.integers(0, 5)),
    min_size=1,
)


@QUICK
@given(st.integers(0, 16), STORES)
def test_every_task_is_assigned_once_and_evenly(
    tasks: int, stores: dict[str, dict[int, int]]
) -> None:
    found = assign_tasks(range(tasks), stores)
    assert found.keys() == stores.keys()
    assert sorted(task for mine in found.values() for task in mine) == list(range(tasks))
    sizes = [len(mine) for mine in found.values()]
    assert max(sizes) - min(sizes) <= 1


@QUICK
@given(st.integers(0, 16), STORES)
def test_it_is_a_function_of_what_the_members_say(
    tasks: int, stores: dict[str, dict[int, int]]
) -> None:
    shuffled = {member: dict(reversed(stores[member].items())) for member in reversed(list(stores))}
    assert assign_tasks(range(tasks), stores) == assign_tasks(list(range(tasks))[::-1], shuffled)


@QUICK
@given(st.integers(0, 16), st.sets(st.sampled_from("abcdef"), min_size=1))
def test_nothing_moves_while_the_members_stay(tasks: int, members: set[str]) -> None:
    first = assign_tasks(range(tasks), {member: {} for member in members})
    claims = {member: dict.fromkeys(mine, 1) for member, mine in first.items()}
    assert assign_tasks(range(tasks), claims) == first


@QUICK
@given(st.integers(1, 16), st.sets(st.sampled_from("abcdef"), min_size=2), st.data())
def test_when_one_leaves_only_its_tasks_move(
    tasks: int, members: set[str], data: st.DataObject
) -> None:
    first = assign_tasks(range(tasks), {member: {} for member in members})
    gone = data.draw(st.sampled_from(sorted(members)))
    claims = {m: dict.fromkeys(mine, 1) for m, mine in first.items() if m != gone}
    second = assign_tasks(range(tasks), claims)
    for member, mine in claims.items():
        assert mine.keys() <= set(second[member])


@QUICK
@given(st.integers(1, 16), st.sets(st.sampled_from("abcdef"), min_size=1))
def test_when_one_joins_no_more_moves_than_it_is_due(tasks: int, members: set[str]) -> None:
    first = assign_tasks(range(tasks), {member: {} for member in members})
    claims = {member: dict.fromkeys(mine, 1) for member, mine in first.items()}
    second = assign_tasks(range(tasks), {**claims, "new": {}})
    moved = sum(len(claims[member].keys() - set(second[member])) for member in members)
    assert moved == len(second["new"])


def test_of_two_with_a_store_the_one_that_is_further_gets_the_task() -> None:
    assert assign_tasks([0, 1], {"a": {0: 5, 1: 9}, "b": {0: 7}}) == {"a": [1], "b": [0]}


def test_a_store_of_a_task_that_is_no_more_claims_nothing() -> None:
    assert assign_tasks([0], {"a": {7: 1}, "b": {}}) == {"a": [0], "b": []}


def test_without_members_nobody_gets_anything() -> None:
    assert assign_tasks([0, 1], {}) == {}


class Cluster:
    """The partitions that a cluster has of each topic."""

    def __init__(self, **partitions: int) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._partitions.get(topic)
        return None if count is None else set(range(count))


def assigned(cluster: Cluster, **members: TaskAssignor) -> dict[str, Any]:
    metadata = {
        member: assignor.metadata(["left", "right"]) for member, assignor in members.items()
    }
    decoded = {m: ConsumerProtocolMemberMetadata.decode(d.encode()) for m, d in metadata.items()}
    found = next(iter(members.values())).assign(cluster, decoded)
    return {member: dict(assignment.assignment) for member, assignment in found.items()}


def test_partitions_of_one_number_stay_together() -> None:
    found = assigned(
        Cluster(left=3, right=3), a=TaskAssignor(lambda: {2: 9}), b=TaskAssignor(lambda: {0: 1})
    )
    for topics in found.values():
        assert topics["left"] == topics["right"]
    assert 2 in found["a"]["left"]
    assert 0 in found["b"]["left"]


def test_a_topic_that_is_not_there_yet_has_nothing_to_assign() -> None:
    found = assigned(Cluster(left=1), a=TaskAssignor(dict))
    assert found["a"] == {"left": [0], "right": []}


def test_a_member_that_says_nothing_readable_has_no_stores() -> None:
    member = ConsumerProtocolMemberMetadata(0, ["left"], b"\xff{")
    found = TaskAssignor(dict).assign(Cluster(left=2), {"a": member})
    assert found["a"].assignment == [("left", [0, 1])]
