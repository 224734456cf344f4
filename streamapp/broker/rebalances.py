"""Rebalances: how members come and go, and how a group finds together again.

A rebalance has two phases. While it is prepared, every member joins again, or is out when the time
is up; then the leader assigns and all fetch their assignment with SyncGroup.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from .errors import ErrorCode
from .events import AnyEvent
from .members import Group, GroupState, Joined, Member, Synced

#: A laptop's bound; Kafka's `group.max.size` has none by default.
MAX_MEMBERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Who asks to join, as what. Durations are milliseconds."""

    group_id: str
    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocol_type: str
    protocols: Mapping[str, bytes]
    #: Whether a new dynamic member gets its id first and joins with it (KIP-394).
    id_first: bool


class Rebalances:
    """The rebalances of all groups; the clock, the journal and the timer are the coordinator's."""

    def __init__(
        self,
        record: Callable[[AnyEvent], None],
        now: Callable[[], int],
        wake: Callable[[int], None],
        *,
        initial_delay_ms: int,
    ) -> None:
        self._record = record
        self._now = now
        self._wake = wake
        self._initial_delay_ms = initial_delay_ms
        #: Groups that wait for more members although all have joined.
        self._delayed: set[str] = set()

    def join_new(self, group: Group, request: JoinRequest) -> Joined | Future[Joined]:
        """JoinGroup of somebody without a member id."""
        if len(group.members) + len(group.promised) >= MAX_MEMBERS:
            return Joined(ErrorCode.group_max_size_reached)
        if request.instance_id is not None:
            member_id = f"{request.instance_id}-{uuid4()}"
            if request.instance_id in group.instances:
                return self._replace_static(group, request, member_id)
        else:
            member_id = f"{request.client_id}-{uuid4()}"
            if request.id_first:
                until = group.promised[member_id] = self._now() + request.session_ms
                self._wake(until)
                return Joined(ErrorCode.member_id_required, member_id)
        return self._add(group, request, member_id)

    def join_again(self, group: Group, request: JoinRequest) -> Joined | Future[Joined]:
        """JoinGroup of somebody with a member id: a member, or one that was promised the id."""
        fenced = group.fenced(request.member_id, request.instance_id)
        if fenced is not None:
            return Joined(fenced, request.member_id)
        if request.member_id in group.promised:
            del group.promised[request.member_id]
            return self._add(group, request, request.member_id)
        member = group.members.get(request.member_id)
        if member is None:
            return Joined(ErrorCode.unknown_member_id, request.member_id)
        unchanged = member.protocols == dict(request.protocols)
        if group.state is GroupState.completing and unchanged:
            return self._joined(group, member)
        if group.state is GroupState.stable and unchanged and member.member_id != group.leader:
            return self._joined(group, member)
        return self._rejoin(group, member, request)

    def _replace_static(
        self, group: Group, request: JoinRequest, member_id: str
    ) -> Joined | Future[Joined]:
        """A static member came back under a new member id; the old one is fenced (KIP-345)."""
        assert request.instance_id is not None
        old = group.members.pop(group.instances[request.instance_id])
        old.answer_join(Joined(ErrorCode.fenced_instance_id, old.member_id))
        old.answer_sync(Synced(ErrorCode.fenced_instance_id))
        group.instances[request.instance_id] = member_id
        was_leader = group.leader == old.member_id
        if was_leader:
            group.leader = member_id
        member = self._member(request, member_id)
        member.assignment = old.assignment
        group.members[member_id] = member
        if group.state is GroupState.stable and group.vote() == group.protocol:
            # Nobody else need notice. Even the leader is told the old one's name as leader, so
            # that it does not assign anew (KIP-345).
            self._record(group.saved())
            assert group.leader is not None
            return Joined(
                member_id=member_id,
                generation=group.generation,
                protocol_type=group.protocol_type,
                protocol=group.protocol,
                leader=old.member_id if was_leader else group.leader,
            )
        return self._rejoin(group, member, request)

    def _member(self, request: JoinRequest, member_id: str) -> Member:
        return Member(
            member_id,
            request.instance_id,
            request.client_id,
            request.host,
            request.session_ms,
            request.rebalance_ms,
            dict(request.protocols),
            self._now() + request.session_ms,
        )

    def _add(self, group: Group, request: JoinRequest, member_id: str) -> Future[Joined]:
        first = not group.members
        if first:
            group.protocol_type = request.protocol_type
        member = self._member(request, member_id)
        group.members[member_id] = member
        if request.instance_id is not None:
            group.instances[request.instance_id] = member_id
        if group.leader is None:
            group.leader = member_id
        delay = self._initial_delay_ms if first and group.state is GroupState.empty else 0
        return self._rejoin(group, member, request, delay)

    def _rejoin(
        self, group: Group, member: Member, request: JoinRequest, delay: int = 0
    ) -> Future[Joined]:
        member.protocols = dict(request.protocols)
        member.session_ms = request.session_ms
        member.rebalance_ms = request.rebalance_ms
        self.alive(member)
        if member.joining is not None:
            member.answer_join(Joined(ErrorCode.unknown_member_id, member.member_id))
        waiting = member.joining = get_running_loop().create_future()
        if group.state is not GroupState.preparing:
            self.prepare(group, delay)
        self.try_complete(group)
        return waiting

    def _joined(self, group: Group, member: Member) -> Joined:
        assert group.leader is not None
        self.alive(member)
        return Joined(
            member_id=member.member_id,
            generation=group.generation,
            protocol_type=group.protocol_type,
            protocol=group.protocol,
            leader=group.leader,
            members=group.subscriptions() if member.member_id == group.leader else (),
        )

    # -- the phases ----------------------------------------------------------------------------

    def prepare(self, group: Group, delay: int = 0) -> None:
        """Begin a rebalance: everyone is to join again."""
        for member in group.members.values():
            if member.syncing is not None:
                member.answer_sync(Synced(ErrorCode.rebalance_in_progress))
                self.alive(member)
        group.state = GroupState.preparing
        longest = max((each.rebalance_ms for each in group.members.values()), default=0)
        group.phase_deadline = self._now() + (delay or longest)
        self._wake(group.phase_deadline)
        if delay:
            self._delayed.add(group.group_id)
        else:
            self._delayed.discard(group.group_id)

    def try_complete(self, group: Group, *, due: bool = False) -> None:
        """End the join phase if everyone is here, or if it is `due` to end without the rest."""
        if group.state is not GroupState.preparing:
            return
        missing = [each for each in group.members.values() if each.joining is None]
        if not due and (missing or group.promised or group.group_id in self._delayed):
            return
        self._delayed.discard(group.group_id)
        for member in missing:
            # A static member that is late keeps its place until its session ends.
            if member.instance_id is None:
                self.drop(group, member)
        here = [each for each in group.members.values() if each.joining is not None]
        if not group.members:
            self.become_empty(group)
            return
        if not here:
            group.phase_deadline = self._now() + max(
                each.rebalance_ms for each in group.members.values()
            )
            self._wake(group.phase_deadline)
            return
        if group.leader not in {each.member_id for each in here}:
            group.leader = here[0].member_id
        group.generation += 1
        group.protocol = group.vote()
        group.state = GroupState.completing
        group.phase_deadline = self._now() + max(
            each.rebalance_ms for each in group.members.values()
        )
        self._wake(group.phase_deadline)
        for member in here:
            member.answer_join(self._joined(group, member))

    def become_empty(self, group: Group) -> None:
        """Nobody is left; the next member begins a new generation."""
        group.state = GroupState.empty
        group.generation += 1
        group.protocol = None
        group.leader = None
        group.phase_deadline = None
        self._record(group.saved())

    def drop(self, group: Group, member: Member) -> None:
        """Take a member out; its own requests that wait are answered."""
        del group.members[member.member_id]
        if member.instance_id is not None:
            group.instances.pop(member.instance_id, None)
        if group.leader == member.member_id:
            group.leader = next(iter(group.members), None)
        member.answer_join(Joined(ErrorCode.unknown_member_id, member.member_id))
        member.answer_sync(Synced(ErrorCode.unknown_member_id))

    def remove(self, group: Group, member: Member) -> None:
        """Take a member out, and rebalance what remains."""
        self.drop(group, member)
        if group.state in (GroupState.stable, GroupState.completing):
            if group.members:
                self.prepare(group)
            else:
                self.become_empty(group)
        self.try_complete(group, due=group.state is GroupState.preparing and not group.members)

    def alive(self, member: Member) -> None:
        """The member has said something: its session begins anew."""
        member.deadline = self._now() + member.session_ms
        self._wake(member.deadline)
