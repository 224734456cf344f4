"""The group coordinator: the classic protocol, eager or cooperative (KIP-62, KIP-345, KIP-394).

Assignors run in the members; what they say to each other passes through unread. A group's
generation, members and assignments are journalled when they settle, so a broker that was killed
goes on with the group as it was.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from .errors import ErrorCode, Refused
from .events import AnyEvent, GroupDeleted, GroupSaved
from .members import Group, GroupState, Joined, Member, Synced

#: Kafka's `group.max.session.timeout.ms`.
MAX_SESSION_MS: Final = 1_800_000
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


class Groups:
    """All consumer groups.

    `record` journals an event; `now` is the wall clock in milliseconds; `wake` is called with
    the time when something is due.
    """

    def __init__(
        self,
        record: Callable[[AnyEvent], None],
        now: Callable[[], int],
        wake: Callable[[int], None],
        *,
        min_session_ms: int,
        initial_delay_ms: int,
    ) -> None:
        self._record = record
        self._now = now
        self._wake = wake
        self._min_session_ms = min_session_ms
        self._initial_delay_ms = initial_delay_ms
        self._groups: dict[str, Group] = {}
        #: Groups that wait for more members although all have joined.
        self._delayed: set[str] = set()

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def get(self, group_id: str) -> Group | None:
        return self._groups.get(group_id)

    # -- joining -------------------------------------------------------------------------------

    def join(self, request: JoinRequest) -> Joined | Future[Joined]:
        """JoinGroup: the answer, or a future that has it once everyone is here."""
        if not request.group_id:
            return Joined(ErrorCode.invalid_group_id, request.member_id)
        if not self._min_session_ms <= request.session_ms <= MAX_SESSION_MS:
            return Joined(ErrorCode.invalid_session_timeout, request.member_id)
        group = self._groups.get(request.group_id)
        if group is None:
            if request.member_id:
                return Joined(ErrorCode.unknown_member_id, request.member_id)
            group = self._groups[request.group_id] = Group(request.group_id)
        if not group.supports(request.protocol_type, request.protocols):
            others = {k: v for k, v in group.members.items() if k != request.member_id}
            alone = not others and bool(request.protocol_type and request.protocols)
            if not alone:
                return Joined(ErrorCode.inconsistent_group_protocol, request.member_id)
        if not request.member_id:
            return self._join_unknown(group, request)
        return self._join_known(group, request)

    def _join_unknown(self, group: Group, request: JoinRequest) -> Joined | Future[Joined]:
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

    def _join_known(self, group: Group, request: JoinRequest) -> Joined | Future[Joined]:
        fenced = self._fenced(group, request.member_id, request.instance_id)
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
        self._alive(member)
        if member.joining is not None:
            member.answer_join(Joined(ErrorCode.unknown_member_id, member.member_id))
        waiting = member.joining = get_running_loop().create_future()
        if group.state is not GroupState.preparing:
            self._prepare(group, delay)
        self._try_complete_join(group)
        return waiting

    def _joined(self, group: Group, member: Member) -> Joined:
        assert group.leader is not None
        self._alive(member)
        return Joined(
            member_id=member.member_id,
            generation=group.generation,
            protocol_type=group.protocol_type,
            protocol=group.protocol,
            leader=group.leader,
            members=group.subscriptions() if member.member_id == group.leader else (),
        )

    # -- the phases ----------------------------------------------------------------------------

    def _prepare(self, group: Group, delay: int = 0) -> None:
        """Begin a rebalance: everyone is to join again."""
        for member in group.members.values():
            if member.syncing is not None:
                member.answer_sync(Synced(ErrorCode.rebalance_in_progress))
                self._alive(member)
        group.state = GroupState.preparing
        longest = max((each.rebalance_ms for each in group.members.values()), default=0)
        group.phase_deadline = self._now() + (delay or longest)
        self._wake(group.phase_deadline)
        if delay:
            self._delayed.add(group.group_id)
        else:
            self._delayed.discard(group.group_id)

    def _try_complete_join(self, group: Group, *, due: bool = False) -> None:
        if group.state is not GroupState.preparing:
            return
        missing = [each for each in group.members.values() if each.joining is None]
        if not due and (missing or group.promised or group.group_id in self._delayed):
            return
        self._delayed.discard(group.group_id)
        for member in missing:
            # A static member that is late keeps its place until its session ends.
            if member.instance_id is None:
                self._drop(group, member)
        here = [each for each in group.members.values() if each.joining is not None]
        if not group.members:
            self._become_empty(group)
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

    def _become_empty(self, group: Group) -> None:
        group.state = GroupState.empty
        group.generation += 1
        group.protocol = None
        group.leader = None
        group.phase_deadline = None
        self._record(group.saved())

    def _drop(self, group: Group, member: Member) -> None:
        """Take a member out; its own requests that wait are answered."""
        del group.members[member.member_id]
        if member.instance_id is not None:
            group.instances.pop(member.instance_id, None)
        if group.leader == member.member_id:
            group.leader = next(iter(group.members), None)
        member.answer_join(Joined(ErrorCode.unknown_member_id, member.member_id))
        member.answer_sync(Synced(ErrorCode.unknown_member_id))

    def _remove(self, group: Group, member: Member) -> None:
        """Take a member out, and rebalance what remains."""
        self._drop(group, member)
        if group.state in (GroupState.stable, GroupState.completing):
            if group.members:
                self._prepare(group)
            else:
                self._become_empty(group)
        self._try_complete_join(
            group, due=group.state is GroupState.preparing and not group.members
        )

    # -- what members say ----------------------------------------------------------------------

    def sync(
        self,
        group_id: str,
        member_id: str,
        generation: int,
        instance_id: str | None,
        assignments: Mapping[str, bytes],
        *,
        protocol_type: str | None = None,
        protocol: str | None = None,
    ) -> Synced | Future[Synced]:
        """SyncGroup: the member's assignment, or a future that has it once the leader says."""
        group = self._groups.get(group_id)
        error = self._check(group, member_id, generation, instance_id)
        if error is not None:
            return Synced(error)
        assert group is not None
        if (protocol_type is not None and protocol_type != group.protocol_type) or (
            protocol is not None and protocol != group.protocol
        ):
            return Synced(ErrorCode.inconsistent_group_protocol)
        member = group.members[member_id]
        self._alive(member)
        if group.state is GroupState.preparing:
            return Synced(ErrorCode.rebalance_in_progress)
        if group.state is GroupState.stable:
            return self._synced(group, member)
        waiting = member.syncing = get_running_loop().create_future()
        if member_id == group.leader:
            for each in group.members.values():
                each.assignment = assignments.get(each.member_id, b"")
            group.state = GroupState.stable
            group.phase_deadline = None
            self._record(group.saved())
            for each in group.members.values():
                if each.syncing is not None:
                    self._alive(each)
                    each.answer_sync(self._synced(group, each))
        return waiting

    def _synced(self, group: Group, member: Member) -> Synced:
        return Synced(ErrorCode.none, group.protocol_type, group.protocol, member.assignment)

    def heartbeat(
        self, group_id: str, member_id: str, generation: int, instance_id: str | None
    ) -> ErrorCode:
        """Heartbeat: none, or what the member has to do about it."""
        group = self._groups.get(group_id)
        error = self._check(group, member_id, generation, instance_id)
        if error is not None:
            return error
        assert group is not None
        member = group.members[member_id]
        self._alive(member)
        if group.state is GroupState.preparing:
            return ErrorCode.rebalance_in_progress
        return ErrorCode.none

    def leave(self, group_id: str, member_id: str, instance_id: str | None) -> ErrorCode:
        """LeaveGroup, of one member; a static one may be named by its instance id alone."""
        group = self._groups.get(group_id)
        if group is None:
            return ErrorCode.unknown_member_id
        if instance_id is not None:
            known = group.instances.get(instance_id)
            if known is None:
                return ErrorCode.unknown_member_id
            if member_id and member_id != known:
                return ErrorCode.fenced_instance_id
            member_id = known
        if group.promised.pop(member_id, None) is not None:
            self._try_complete_join(group)
            return ErrorCode.none
        member = group.members.get(member_id)
        if member is None:
            return ErrorCode.unknown_member_id
        self._remove(group, member)
        return ErrorCode.none

    def check_commit(
        self, group_id: str, member_id: str, generation: int, instance_id: str | None
    ) -> ErrorCode:
        """Whether a member may commit offsets, or somebody without membership."""
        group = self._groups.get(group_id)
        if generation < 0 and not member_id and instance_id is None:
            # A consumer that assigns its partitions by itself: only while nobody is a member.
            busy = group is not None and bool(group.members)
            return ErrorCode.unknown_member_id if busy else ErrorCode.none
        if group is None:
            return ErrorCode.illegal_generation
        error = self._check(group, member_id, generation, instance_id)
        if error is not None:
            return error
        member = group.members[member_id]
        self._alive(member)
        if group.state is GroupState.completing:
            return ErrorCode.rebalance_in_progress
        return ErrorCode.none

    def check_transaction(
        self, group_id: str, member_id: str, generation: int, instance_id: str | None
    ) -> ErrorCode:
        """Whether a transaction may commit offsets (KIP-447: with a generation, or without)."""
        if generation < 0 and not member_id and instance_id is None:
            return ErrorCode.none
        group = self._groups.get(group_id)
        error = self._check(group, member_id, generation, instance_id)
        return ErrorCode.none if error is None else error

    def _alive(self, member: Member) -> None:
        member.deadline = self._now() + member.session_ms
        self._wake(member.deadline)

    def _check(
        self, group: Group | None, member_id: str, generation: int, instance_id: str | None
    ) -> ErrorCode | None:
        if group is None:
            return ErrorCode.unknown_member_id
        fenced = self._fenced(group, member_id, instance_id)
        if fenced is not None:
            return fenced
        if member_id not in group.members:
            return ErrorCode.unknown_member_id
        if generation != group.generation:
            return ErrorCode.illegal_generation
        return None

    def _fenced(self, group: Group, member_id: str, instance_id: str | None) -> ErrorCode | None:
        if instance_id is None:
            return None
        known = group.instances.get(instance_id)
        if known is None:
            return ErrorCode.unknown_member_id
        return None if known == member_id else ErrorCode.fenced_instance_id

    # -- what nobody says ----------------------------------------------------------------------

    def expire(self, now: int) -> None:
        """Do what is due: end sessions, end phases without those who are missing."""
        for group in list(self._groups.values()):
            for member_id, until in list(group.promised.items()):
                if until <= now:
                    del group.promised[member_id]
            for member in list(group.members.values()):
                silent = member.joining is None and member.syncing is None
                if silent and member.deadline <= now and member.member_id in group.members:
                    self._remove(group, member)
            due = group.phase_deadline is not None and group.phase_deadline <= now
            if due and group.state is GroupState.completing:
                for member in list(group.members.values()):
                    if member.syncing is None:
                        self._drop(group, member)
                if group.members:
                    self._prepare(group)
                else:
                    self._become_empty(group)
                due = False
            self._try_complete_join(group, due=due)

    def next_deadline(self) -> int | None:
        """When `expire` has something to do next."""
        return min((due for group in self for due in group.deadlines()), default=None)

    def delete(self, group_id: str, *, has_offsets: bool) -> None:
        """DeleteGroups, of one group."""
        group = self._groups.get(group_id)
        if group is None and not has_offsets:
            raise Refused(ErrorCode.group_id_not_found, f"there is no group {group_id!r}")
        if group is not None and group.members:
            raise Refused(ErrorCode.non_empty_group, f"group {group_id!r} has members")
        self._record(GroupDeleted(group_id))

    # -- events --------------------------------------------------------------------------------

    def saved(self, event: GroupSaved) -> None:
        """Take up a group from the journal, when it is replayed."""
        self._groups[event.group] = Group.restored(event, self._now())

    def deleted(self, event: GroupDeleted) -> None:
        self._groups.pop(event.group, None)

    def snapshot(self) -> Iterator[GroupSaved]:
        """The events that lead to the groups as they are; a rebalance is not kept."""
        for group in self:
            saved = group.saved()
            settled = group.state is GroupState.stable
            yield saved if settled else replace(saved, protocol=None, leader=None, members=[])
