"""The group coordinator: the classic protocol, eager or cooperative (KIP-62, KIP-345, KIP-394).

Assignors run in the members; what they say to each other passes through unread. A group's
generation, members and assignments are journalled when they settle, so a broker that was killed
goes on with the group as it was.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from .errors import ErrorCode, Refused
from .events import AnyEvent, GroupDeleted, GroupSaved
from .members import Group, GroupState, Joined, Member, Synced
from .rebalances import JoinRequest, Rebalances

#: Kafka's `group.max.session.timeout.ms`.
MAX_SESSION_MS: Final = 1_800_000


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
        self._min_session_ms = min_session_ms
        self._rebalances = Rebalances(record, now, wake, initial_delay_ms=initial_delay_ms)
        self._groups: dict[str, Group] = {}

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
            return self._rebalances.join_new(group, request)
        return self._rebalances.join_again(group, request)

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
        self._rebalances.alive(member)
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
                    self._rebalances.alive(each)
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
        self._rebalances.alive(member)
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
            self._rebalances.try_complete(group)
            return ErrorCode.none
        member = group.members.get(member_id)
        if member is None:
            return ErrorCode.unknown_member_id
        self._rebalances.remove(group, member)
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
        self._rebalances.alive(member)
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

    def _check(
        self, group: Group | None, member_id: str, generation: int, instance_id: str | None
    ) -> ErrorCode | None:
        if group is None:
            return ErrorCode.unknown_member_id
        fenced = group.fenced(member_id, instance_id)
        if fenced is not None:
            return fenced
        if member_id not in group.members:
            return ErrorCode.unknown_member_id
        if generation != group.generation:
            return ErrorCode.illegal_generation
        return None

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
                    self._rebalances.remove(group, member)
            due = group.phase_deadline is not None and group.phase_deadline <= now
            if due and group.state is GroupState.completing:
                for member in list(group.members.values()):
                    if member.syncing is None:
                        self._rebalances.drop(group, member)
                if group.members:
                    self._rebalances.prepare(group)
                else:
                    self._rebalances.become_empty(group)
                due = False
            self._rebalances.try_complete(group, due=due)

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
