"""The group coordinator, without a network and by a clock of the test's own."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import pytest

from streamapp.broker.errors import ErrorCode, Refused
from streamapp.broker.events import AnyEvent, GroupSaved
from streamapp.broker.groups import Groups
from streamapp.broker.members import GroupState, Joined, Synced
from streamapp.broker.rebalances import JoinRequest
from tests.broker.building import Clock

T = TypeVar("T")
SESSION = 1_000
REBALANCE = 5_000


class Coordinator:
    """Groups with a clock, and short forms of what members say."""

    def __init__(self, *, initial_delay_ms: int = 0) -> None:
        self.clock = Clock(0)
        self.journal: list[AnyEvent] = []
        self.groups = Groups(
            self.journal.append,
            self.clock,
            lambda due: None,
            min_session_ms=100,
            initial_delay_ms=initial_delay_ms,
        )

    def join(
        self,
        member: str = "",
        *,
        instance: str | None = None,
        protocols: dict[str, bytes] | None = None,
        protocol_type: str = "consumer",
        id_first: bool = False,
        session: int = SESSION,
    ) -> Joined | asyncio.Future[Joined]:
        return self.groups.join(
            JoinRequest(
                "g",
                member,
                instance,
                "client",
                "/here",
                session,
                REBALANCE,
                protocol_type,
                {"range": b"topics"} if protocols is None else protocols,
                id_first,
            )
        )

    async def joined(self, member: str = "", *, instance: str | None = None) -> Joined:
        return await done(self.join(member, instance=instance))

    def sync(
        self, joined: Joined, assignments: dict[str, bytes] | None = None, *, member: str = ""
    ) -> Synced | asyncio.Future[Synced]:
        return self.groups.sync(
            "g", member or joined.member_id, joined.generation, None, assignments or {}
        )

    async def stable(self, count: int) -> list[Joined]:
        """A stable group of that many members; the first one leads and assigns each its id."""
        members: list[Joined] = []
        for _ in range(count):
            fresh = self.join()
            again = [self.join(each.member_id) for each in members]
            members = [await done(each) for each in [*again, fresh]]
        waiting = [self.sync(each) for each in members[1:]]
        plan = {each.member_id: each.member_id.encode() for each in members}
        synced = [await done(each) for each in [self.sync(members[0], plan), *waiting]]
        assert [each.assignment for each in synced] == list(plan.values())
        return members

    def beat(self, joined: Joined) -> ErrorCode:
        return self.groups.heartbeat("g", joined.member_id, joined.generation, None)

    def pass_time(self, milliseconds: int) -> None:
        self.clock.now += milliseconds
        self.groups.expire(self.clock.now)

    @property
    def state(self) -> GroupState:
        group = self.groups.get("g")
        assert group is not None
        return group.state


async def done(answer: T | asyncio.Future[T]) -> T:
    """The answer, which has to be there by now."""
    if isinstance(answer, asyncio.Future):
        assert answer.done(), "the answer is still being waited for"
        return answer.result()
    return answer


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


async def test_the_first_member_leads_and_hears_who_is_there(coordinator: Coordinator) -> None:
    joined = await coordinator.joined()

    assert joined.error is ErrorCode.none
    assert (joined.leader, joined.generation) == (joined.member_id, 1)
    assert joined.members == ((joined.member_id, None, b"topics"),)
    assert coordinator.state is GroupState.completing


async def test_a_join_waits_until_all_members_have_joined_again(coordinator: Coordinator) -> None:
    (old,) = await coordinator.stable(1)

    fresh = coordinator.join()
    assert isinstance(fresh, asyncio.Future)
    assert not fresh.done()
    assert coordinator.beat(old) is ErrorCode.rebalance_in_progress
    again = await coordinator.joined(old.member_id)

    joined = await done(fresh)
    assert joined.generation == again.generation == 2
    assert joined.leader == again.leader == old.member_id
    assert (len(again.members), len(joined.members)) == (2, 0)


async def test_a_sync_waits_for_the_leader_s_assignments(coordinator: Coordinator) -> None:
    leader, follower = await coordinator.stable(2)
    again = coordinator.join(leader.member_id)
    followed = await coordinator.joined(follower.member_id)
    led = await done(again)

    waiting = coordinator.sync(followed)
    assert isinstance(waiting, asyncio.Future)
    assert not waiting.done()
    await done(coordinator.sync(led, {follower.member_id: b"yours"}))

    assert (await done(waiting)).assignment == b"yours"
    assert coordinator.state is GroupState.stable
    assert coordinator.beat(followed) is ErrorCode.none


async def test_who_does_not_join_again_in_time_is_out(coordinator: Coordinator) -> None:
    kept, lost = await coordinator.stable(2)
    again = coordinator.join(kept.member_id)

    for _ in range(REBALANCE // 500):
        coordinator.beat(lost)  # it is alive, but does not join
        coordinator.pass_time(500)

    assert len((await done(again)).members) == 1
    assert coordinator.beat(lost) is ErrorCode.unknown_member_id


async def test_who_does_not_sync_in_time_is_out(coordinator: Coordinator) -> None:
    leader, follower = await coordinator.stable(2)
    again = coordinator.join(leader.member_id)
    followed = await coordinator.joined(follower.member_id)
    led = await done(again)
    waiting = coordinator.sync(followed)

    for _ in range(REBALANCE // 500):
        coordinator.beat(led)
        coordinator.pass_time(500)

    assert (await done(waiting)).error is ErrorCode.rebalance_in_progress
    assert coordinator.beat(led) is ErrorCode.unknown_member_id


async def test_a_session_ends_without_heartbeats_and_the_rest_goes_on(
    coordinator: Coordinator,
) -> None:
    kept, lost = await coordinator.stable(2)

    coordinator.pass_time(SESSION - 1)
    assert coordinator.beat(kept) is ErrorCode.none
    coordinator.pass_time(1)

    assert coordinator.beat(lost) is ErrorCode.unknown_member_id
    assert coordinator.beat(kept) is ErrorCode.rebalance_in_progress
    assert len((await coordinator.joined(kept.member_id)).members) == 1


async def test_a_member_that_waits_for_the_others_needs_no_heartbeat(
    coordinator: Coordinator,
) -> None:
    _, other = await coordinator.stable(2)
    waiting = coordinator.join()

    for _ in range(4):
        coordinator.beat(other)
        coordinator.pass_time(SESSION - 1)

    assert isinstance(waiting, asyncio.Future)
    assert not waiting.done()


async def test_the_last_member_leaves_an_empty_group(coordinator: Coordinator) -> None:
    (member,) = await coordinator.stable(1)

    assert coordinator.groups.leave("g", member.member_id, None) is ErrorCode.none

    assert coordinator.state is GroupState.empty
    assert coordinator.groups.check_commit("g", "", -1, None) is ErrorCode.none
    assert coordinator.groups.leave("g", member.member_id, None) is ErrorCode.unknown_member_id


async def test_a_leader_that_leaves_while_others_wait_is_replaced(coordinator: Coordinator) -> None:
    leader, follower = await coordinator.stable(2)
    again = coordinator.join(follower.member_id, protocols={"range": b"changed"})
    assert isinstance(again, asyncio.Future)
    assert not again.done()

    coordinator.groups.leave("g", leader.member_id, None)

    assert (await done(again)).leader == follower.member_id


async def test_a_dynamic_member_gets_its_id_first(coordinator: Coordinator) -> None:
    told = await done(coordinator.join(id_first=True))
    assert told.error is ErrorCode.member_id_required

    joined = await coordinator.joined(told.member_id)

    assert (joined.error, joined.member_id) == (ErrorCode.none, told.member_id)


async def test_a_promised_member_that_never_comes_is_not_waited_for(
    coordinator: Coordinator,
) -> None:
    (member,) = await coordinator.stable(1)
    await done(coordinator.join(id_first=True))
    again = coordinator.join(member.member_id, protocols={"range": b"changed"})
    assert isinstance(again, asyncio.Future)
    assert not again.done()

    coordinator.pass_time(SESSION)

    assert len((await done(again)).members) == 1


async def test_a_static_member_comes_back_without_a_rebalance(coordinator: Coordinator) -> None:
    first = await coordinator.joined(instance="one")
    await done(coordinator.sync(first, {first.member_id: b"mine"}, member=first.member_id))

    back = await coordinator.joined(instance="one")

    assert back.generation == first.generation
    assert back.member_id != first.member_id
    assert back.leader == first.member_id  # so that it does not assign anew (KIP-345)
    synced = coordinator.groups.sync("g", back.member_id, back.generation, "one", {})
    assert (await done(synced)).assignment == b"mine"
    fenced = coordinator.groups.heartbeat("g", first.member_id, first.generation, "one")
    assert fenced is ErrorCode.fenced_instance_id


async def test_a_static_member_that_comes_back_during_a_rebalance_takes_its_place(
    coordinator: Coordinator,
) -> None:
    first = await coordinator.joined(instance="one")
    waiting = coordinator.join()  # a rebalance begins, the static member is waited for
    assert isinstance(waiting, asyncio.Future)
    assert not waiting.done()

    back = await coordinator.joined(instance="one")

    assert (await done(waiting)).generation == back.generation == 2
    fenced = coordinator.groups.heartbeat("g", first.member_id, 2, "one")
    assert fenced is ErrorCode.fenced_instance_id


async def test_a_static_member_leaves_by_its_instance_id(coordinator: Coordinator) -> None:
    member = await coordinator.joined(instance="one")

    assert coordinator.groups.leave("g", "", "two") is ErrorCode.unknown_member_id
    assert coordinator.groups.leave("g", "other", "one") is ErrorCode.fenced_instance_id
    assert coordinator.groups.leave("g", "", "one") is ErrorCode.none

    beat = coordinator.groups.heartbeat("g", member.member_id, member.generation, None)
    assert beat is ErrorCode.unknown_member_id


async def test_members_that_speak_different_protocols_do_not_mix(coordinator: Coordinator) -> None:
    await coordinator.stable(1)

    other = await done(coordinator.join(protocols={"sticky": b""}))
    connect = await done(coordinator.join(protocol_type="connect"))

    assert other.error is connect.error is ErrorCode.inconsistent_group_protocol


async def test_the_protocol_that_most_prefer_among_those_all_know_is_chosen(
    coordinator: Coordinator,
) -> None:
    first = await done(coordinator.join(protocols={"a": b"", "b": b"first"}))
    waiting = coordinator.join(protocols={"b": b"second", "c": b""})
    again = await done(coordinator.join(first.member_id, protocols={"a": b"", "b": b"first"}))

    assert again.protocol == (await done(waiting)).protocol == "b"
    assert {metadata for _, _, metadata in again.members} == {b"first", b"second"}


@pytest.mark.parametrize("session", [99, 1_800_001])
async def test_a_session_timeout_out_of_bounds_is_refused(
    coordinator: Coordinator, session: int
) -> None:
    joined = await done(coordinator.join(session=session))

    assert joined.error is ErrorCode.invalid_session_timeout


async def test_an_old_generation_may_neither_sync_nor_commit(coordinator: Coordinator) -> None:
    (member,) = await coordinator.stable(1)
    groups, member_id = coordinator.groups, member.member_id

    assert groups.heartbeat("g", member_id, 0, None) is ErrorCode.illegal_generation
    assert groups.check_commit("g", member_id, 0, None) is ErrorCode.illegal_generation
    assert groups.check_transaction("g", member_id, 0, None) is ErrorCode.illegal_generation
    assert (await done(groups.sync("g", member_id, 0, None, {}))).error is (
        ErrorCode.illegal_generation
    )
    assert groups.check_commit("g", "", -1, None) is ErrorCode.unknown_member_id
    assert groups.check_transaction("g", "", -1, None) is ErrorCode.none


async def test_more_members_are_waited_for_when_the_broker_is_told_to() -> None:
    coordinator = Coordinator(initial_delay_ms=300)
    first, second = coordinator.join(), coordinator.join()
    assert isinstance(first, asyncio.Future)
    assert not first.done()

    coordinator.pass_time(300)

    assert (await done(first)).generation == (await done(second)).generation == 1


async def test_a_settled_group_outlives_the_broker(coordinator: Coordinator) -> None:
    leader, follower = await coordinator.stable(2)
    saved = coordinator.journal[-1]
    assert isinstance(saved, GroupSaved)

    after = Coordinator()
    after.clock.now = coordinator.clock.now + 10 * SESSION
    after.groups.saved(saved)

    assert after.beat(follower) is ErrorCode.none
    synced = after.sync(leader)
    assert (await done(synced)).assignment == leader.member_id.encode()
    after.pass_time(SESSION)
    assert after.state is GroupState.empty


async def test_a_rebalance_does_not_outlive_the_broker(coordinator: Coordinator) -> None:
    (member,) = await coordinator.stable(1)
    coordinator.join()

    (saved,) = coordinator.groups.snapshot()
    after = Coordinator()
    after.groups.saved(saved)

    assert after.beat(member) is ErrorCode.unknown_member_id
    assert (await after.joined()).generation == member.generation + 1


async def test_only_groups_without_members_are_deleted(coordinator: Coordinator) -> None:
    (member,) = await coordinator.stable(1)

    with pytest.raises(Refused) as refused:
        coordinator.groups.delete("g", has_offsets=False)
    assert refused.value.code is ErrorCode.non_empty_group
    with pytest.raises(Refused) as refused:
        coordinator.groups.delete("other", has_offsets=False)
    assert refused.value.code is ErrorCode.group_id_not_found
    coordinator.groups.leave("g", member.member_id, None)
    coordinator.groups.delete("g", has_offsets=False)
