"""Who gets which task: each once, as evenly as can be, with its store, and with standbys elsewhere."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.assignment import Member, Share, assign_tasks
from tests.state.quick import QUICK

NAMES = st.sampled_from("abcdef")
TASKS = st.integers(0, 16)
REPLICAS = st.integers(0, 3)
SOME = st.frozensets(st.integers(0, 20))
MEMBERS = st.dictionaries(
    NAMES,
    st.builds(Member, st.dictionaries(st.integers(0, 20), st.integers(0, 50)), SOME, SOME, SOME),
    min_size=1,
)
#: So much that nobody is ever too far behind.
ANY = 10**9


def members_of(shares: dict[str, Share], position: int = 100) -> dict[str, Member]:
    """What members say when they have caught up with all that they were given."""
    return {
        name: Member(
            dict.fromkeys([*share.active, *share.standby, *share.warming], position),
            frozenset(share.active),
            frozenset(share.standby + share.warming),
            frozenset(share.warming),
        )
        for name, share in shares.items()
    }


def fresh(tasks: int, names: set[str], replicas: int = 0) -> dict[str, Share]:
    return assign_tasks(range(tasks), {name: Member() for name in names}, replicas=replicas)


def even(sizes: list[int]) -> bool:
    return max(sizes) - min(sizes) <= 1


def owners(shares: dict[str, Share]) -> dict[int, str]:
    return {task: name for name, share in shares.items() for task in share.active}


@QUICK
@given(TASKS, MEMBERS, REPLICAS, st.sampled_from([0, 10, ANY]))
def test_every_task_is_active_once_and_followed_by_others(
    tasks: int, members: dict[str, Member], replicas: int, lag: int
) -> None:
    shares = assign_tasks(range(tasks), members, replicas=replicas, acceptable_lag=lag)
    assert shares.keys() == members.keys()
    active = Counter(task for share in shares.values() for task in share.active)
    assert active == Counter(range(tasks))
    standbys = Counter(task for share in shares.values() for task in share.standby)
    assert all(standbys[task] == min(replicas, len(members) - 1) for task in range(tasks))
    for share in shares.values():
        assert not set(share.active) & set(share.standby + share.warming)
        assert len(set(share.standby)) == len(share.standby)


@QUICK
@given(TASKS, MEMBERS, REPLICAS)
def test_where_nobody_is_too_far_behind_all_is_even_at_once(
    tasks: int, members: dict[str, Member], replicas: int
) -> None:
    shares = assign_tasks(range(tasks), members, replicas=replicas, acceptable_lag=ANY)
    assert even([len(share.active) for share in shares.values()])
    assert even([len(share.standby) for share in shares.values()])
    assert not any(share.warming for share in shares.values())


@QUICK
@given(TASKS, MEMBERS, REPLICAS, st.sampled_from([0, 10, ANY]))
def test_it_is_a_function_of_what_the_members_say(
    tasks: int, members: dict[str, Member], replicas: int, lag: int
) -> None:
    shuffled = {name: members[name] for name in reversed(list(members))}
    first = assign_tasks(range(tasks), members, replicas=replicas, acceptable_lag=lag)
    assert first == assign_tasks(
        range(tasks)[::-1], shuffled, replicas=replicas, acceptable_lag=lag
    )


@QUICK
@given(TASKS, MEMBERS, REPLICAS)
def test_nothing_moves_while_the_members_stay(
    tasks: int, members: dict[str, Member], replicas: int
) -> None:
    first = assign_tasks(range(tasks), members, replicas=replicas, acceptable_lag=ANY)
    again = assign_tasks(range(tasks), members_of(first), replicas=replicas)
    assert again == first


@QUICK
@given(st.integers(1, 16), st.sets(NAMES, min_size=2), REPLICAS, st.data())
def test_when_one_leaves_only_its_tasks_move(
    tasks: int, names: set[str], replicas: int, data: st.DataObject
) -> None:
    first = fresh(tasks, names, replicas)
    gone = data.draw(st.sampled_from(sorted(names)))
    left = {name: member for name, member in members_of(first).items() if name != gone}
    second = assign_tasks(range(tasks), left, replicas=replicas)
    for name in left:
        assert set(first[name].active) <= set(second[name].active)


@QUICK
@given(st.integers(1, 16), st.sets(NAMES, min_size=3), st.integers(1, 3), st.data())
def test_when_one_leaves_a_standby_has_each_of_its_tasks(
    tasks: int, names: set[str], replicas: int, data: st.DataObject
) -> None:
    first = fresh(tasks, names, replicas)
    gone = data.draw(st.sampled_from(sorted(names)))
    left = {name: member for name, member in members_of(first).items() if name != gone}
    second = assign_tasks(range(tasks), left, replicas=replicas)
    for name, share in second.items():
        assert set(share.active) <= left[name].stores.keys()


@QUICK
@given(st.integers(1, 16), st.sets(NAMES, min_size=1))
def test_when_one_joins_no_more_moves_than_it_is_due(tasks: int, names: set[str]) -> None:
    before = members_of(fresh(tasks, names))
    shares = assign_tasks(range(tasks), {**before, "new": Member()}, acceptable_lag=ANY)
    moved = sum(len(before[name].active - set(shares[name].active)) for name in names)
    assert moved == len(shares["new"].active)


@QUICK
@given(st.integers(1, 16), st.sets(NAMES, min_size=1), REPLICAS)
def test_one_that_joins_without_state_warms_up_and_then_has_its_part(
    tasks: int, names: set[str], replicas: int
) -> None:
    before = fresh(tasks, names, replicas)
    joined = {**members_of(before), "new": Member()}
    during = assign_tasks(range(tasks), joined, replicas=replicas)
    assert owners(during) == owners(before)
    after = assign_tasks(range(tasks), members_of(during), replicas=replicas)
    assert after["new"].active == during["new"].warming
    assert even([len(share.active) for share in after.values()])
    assert not any(share.warming for share in after.values())


@QUICK
@given(st.integers(1, 16), st.sets(NAMES, min_size=1), st.data())
def test_a_rebalance_meanwhile_changes_nothing_of_the_warming(
    tasks: int, names: set[str], data: st.DataObject
) -> None:
    joined = {**members_of(fresh(tasks, names)), "new": Member()}
    during = assign_tasks(range(tasks), joined)
    behind = {task: data.draw(st.integers(0, 99)) for task in during["new"].warming}
    halfway = {
        **members_of(during),
        "new": Member(behind, standby=frozenset(behind), warming=frozenset(behind)),
    }
    assert assign_tasks(range(tasks), halfway) == during


@QUICK
@given(TASKS, MEMBERS, REPLICAS, st.sampled_from([0, 10]))
def test_warming_up_comes_to_an_end_with_all_even(
    tasks: int, members: dict[str, Member], replicas: int, lag: int
) -> None:
    shares = assign_tasks(range(tasks), members, replicas=replicas, acceptable_lag=lag)
    rounds = [shares]
    while any(share.warming for share in shares.values()):
        shares = assign_tasks(
            range(tasks), members_of(shares), replicas=replicas, acceptable_lag=lag
        )
        rounds.append(shares)
        assert len(rounds) <= 2
    assert even([len(share.active) for share in shares.values()])
    assert even([len(share.standby) for share in shares.values()])
    for before, after in pairwise(rounds):
        assert before != after


@QUICK
@given(TASKS, MEMBERS, REPLICAS)
def test_no_task_goes_where_its_state_is_not_while_it_is_somewhere(
    tasks: int, members: dict[str, Member], replicas: int
) -> None:
    for task, name in owners(assign_tasks(range(tasks), members, replicas=replicas)).items():
        assert members[name].stores.get(task, 0) == max(
            member.stores.get(task, 0) for member in members.values()
        )


def test_of_two_with_a_store_the_one_that_is_further_gets_the_task() -> None:
    shares = assign_tasks([0, 1], {"a": Member({0: 5, 1: 9}), "b": Member({0: 7})})
    assert owners(shares) == {0: "b", 1: "a"}


def test_of_two_who_had_a_task_the_one_that_is_further_keeps_it() -> None:
    mine = frozenset({0})
    shares = assign_tasks([0], {"a": Member({0: 5}, mine), "b": Member({0: 7}, mine)})
    assert owners(shares) == {0: "b"}


def test_who_follows_a_task_goes_on_though_another_has_a_store_that_is_as_far() -> None:
    members = {
        "a": Member({0: 7}),
        "b": Member({0: 7}, frozenset({0})),
        "c": Member({0: 6}, standby=frozenset({0})),
    }
    shares = assign_tasks([0], members, replicas=1, acceptable_lag=5)
    assert owners(shares) == {0: "b"}
    assert shares["c"].standby == [0]


def test_a_store_of_a_task_that_is_no_more_claims_nothing() -> None:
    shares = assign_tasks([0], {"a": Member({7: 1}, frozenset({7})), "b": Member()})
    assert owners(shares) == {0: "a"}


def test_without_members_nobody_gets_anything() -> None:
    assert assign_tasks([0, 1], {}) == {}
