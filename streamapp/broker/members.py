"""A consumer group and its members: what they are, without the protocol that changes them."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from .errors import ErrorCode
from .events import GroupSaved, SavedMember


class GroupState(Enum):
    """The states of the classic protocol, by the names that DescribeGroups gives them."""

    empty = "Empty"
    preparing = "PreparingRebalance"
    completing = "CompletingRebalance"
    stable = "Stable"
    dead = "Dead"


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to JoinGroup."""

    error: ErrorCode = ErrorCode.none
    member_id: str = ""
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    #: For the leader alone: member id, instance id, subscription.
    members: tuple[tuple[str, str | None, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to SyncGroup."""

    error: ErrorCode = ErrorCode.none
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


@dataclass(slots=True)
class Member:
    """A member of a group. Durations and times are milliseconds."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocols: dict[str, bytes]
    deadline: int
    assignment: bytes = b""
    joining: Future[Joined] | None = None
    syncing: Future[Synced] | None = None

    def answer_join(self, answer: Joined) -> None:
        """Answer a JoinGroup that waits, if one does."""
        if self.joining is not None and not self.joining.done():
            self.joining.set_result(answer)
        self.joining = None

    def answer_sync(self, answer: Synced) -> None:
        """Answer a SyncGroup that waits, if one does."""
        if self.syncing is not None and not self.syncing.done():
            self.syncing.set_result(answer)
        self.syncing = None


@dataclass(slots=True)
class Group:
    """A consumer group of the classic protocol."""

    group_id: str
    state: GroupState = GroupState.empty
    generation: int = 0
    protocol_type: str = ""
    protocol: str | None = None
    leader: str | None = None
    #: In the order in which they joined.
    members: dict[str, Member] = field(default_factory=dict)
    #: Instance id to member id (static members, KIP-345).
    instances: dict[str, str] = field(default_factory=dict)
    #: Member ids that were given out and have not joined yet (KIP-394), and until when.
    promised: dict[str, int] = field(default_factory=dict)
    #: When the join phase, or the sync phase, ends without those who are missing.
    phase_deadline: int | None = None

    def supports(self, protocol_type: str, protocols: Mapping[str, bytes]) -> bool:
        """Whether a member with these protocols can be in the group."""
        if not self.members:
            return bool(protocol_type and protocols)
        return protocol_type == self.protocol_type and bool(self._common() & set(protocols))

    def _common(self) -> set[str]:
        return set.intersection(*(set(each.protocols) for each in self.members.values()))

    def fenced(self, member_id: str, instance_id: str | None) -> ErrorCode | None:
        """Why somebody who says to be this static member is not; None if nothing speaks against."""
        if instance_id is None:
            return None
        known = self.instances.get(instance_id)
        if known is None:
            return ErrorCode.unknown_member_id
        return None if known == member_id else ErrorCode.fenced_instance_id

    def vote(self) -> str:
        """The protocol that most members prefer among those that all of them know."""
        common = self._common()
        votes: dict[str, int] = {}
        for member in self.members.values():
            choice = next(name for name in member.protocols if name in common)
            votes[choice] = votes.get(choice, 0) + 1
        return max(votes, key=lambda name: votes[name])

    def subscriptions(self) -> tuple[tuple[str, str | None, bytes], ...]:
        """What the leader assigns from."""
        assert self.protocol is not None
        return tuple(
            (each.member_id, each.instance_id, each.protocols[self.protocol])
            for each in self.members.values()
        )

    def deadlines(self) -> Iterator[int]:
        """The times at which something is due."""
        if self.phase_deadline is not None:
            yield self.phase_deadline
        for member in self.members.values():
            if member.joining is None and member.syncing is None:
                yield member.deadline
        yield from self.promised.values()

    def saved(self) -> GroupSaved:
        """The group as the journal keeps it."""
        return GroupSaved(
            self.group_id,
            self.generation,
            self.protocol_type,
            self.protocol,
            self.leader,
            [
                SavedMember(
                    each.member_id,
                    each.instance_id,
                    each.client_id,
                    each.host,
                    each.session_ms,
                    each.rebalance_ms,
                    list(each.protocols.items()),
                    each.assignment,
                )
                for each in self.members.values()
            ],
        )

    @classmethod
    def restored(cls, event: GroupSaved, now: int) -> Group:
        """The group as it was saved; its members have a whole session to say a word."""
        group = cls(
            event.group,
            GroupState.stable if event.members else GroupState.empty,
            event.generation,
            event.protocol_type,
            event.protocol,
            event.leader,
        )
        for saved in event.members:
            group.members[saved.member_id] = Member(
                saved.member_id,
                saved.instance_id,
                saved.client_id,
                saved.host,
                saved.session_ms,
                saved.rebalance_ms,
                dict(saved.protocols),
                now + saved.session_ms,
                saved.assignment,
            )
            if saved.instance_id is not None:
                group.instances[saved.instance_id] = saved.member_id
        return group
