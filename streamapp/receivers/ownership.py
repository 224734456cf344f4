"""Which of several processes runs a receiver: the one that the group says.

All that want to run it are members of a consumer group over the positions topic, which has one
partition: whoever is assigned it is the owner, and the others wait. The group notices when the owner
dies. Starting a producer would tell nobody to wait: it fences the owner, and the later one wins.

Membership is the rule and fencing the last line: an owner that was cut off and does not know yet
that it was replaced can try to publish, and the publisher finds out (`TakenOver`).
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.errors import KafkaError

from streamapp.receivers.connection import Bootstrap, client_options
from streamapp.receivers.errors import BrokerUnavailable, OwnershipLost
from streamapp.receivers.positions import COMPACTED
from streamapp.receivers.topics import TopicSpec, ensure_topics, positions_of

__all__ = ["SESSION_TIMEOUT", "Ownership", "choose"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

SESSION_TIMEOUT: Final = 6.0
"""Seconds without a sign of life after which the owner counts as dead; the least that Kafka allows
unless its group.min.session.timeout.ms says otherwise."""

_NEVER_MS = 2**31 - 1
_CHECK_MS = 200


class _Word(msgspec.Struct, frozen=True):
    """What a member says of itself, and what the group says of the owner.

    Attributes:
        term: the owner's; every change of the owner counts one up, and 0 is that of a member that
            owns nothing. A member that missed its replacement still says the term that it had.
        seen: the last term that the member knows of.
        place: where the process is, for messages.
    """

    term: int = 0
    seen: int = 0
    place: str = ""


class Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """A candidate for running the receiver `name` of `topic`.

        async with Ownership(bootstrap, topic, name) as ownership:
            await ownership.acquired()
            await ownership.hold(receiver.run)

    It can be entered again after it was left.

    Args:
        bootstrap: the broker's address.
        topic: the receiver's.
        name: the receiver's.
        session_timeout: seconds after which a dead owner is replaced.

    Entering raises:
        BrokerUnavailable: nothing answers at `bootstrap`.
        TopicError: the positions topic is missing and cannot be created.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        topic: str,
        name: str,
        *,
        session_timeout: float = SESSION_TIMEOUT,
    ) -> None:
        self.topic = topic
        self.name = name
        self._bootstrap = bootstrap
        self._session_timeout = session_timeout
        self._place = f"{socket.gethostname()}, process {os.getpid()}"
        self._partition = TopicPartition(positions_of(topic), 0)
        self._owned = asyncio.Event()
        self._lost = asyncio.Event()
        self._assignor = _OwnerAssignor(self._place)
        self._consumer: AIOKafkaConsumer | None = None

    @property
    def owned(self) -> bool:
        """Whether the group's last word was that this is the owner."""
        return self._owned.is_set()

    async def __aenter__(self) -> Self:
        positions = self._partition.topic
        await ensure_topics(self._bootstrap, TopicSpec(positions, configs=COMPACTED))
        self._assignor = _OwnerAssignor(self._place)
        self._consumer = AIOKafkaConsumer(
            **client_options(self._bootstrap),
            group_id=f"{self.topic}-receiver-{self.name}",
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=round(self._session_timeout * 1000),
            heartbeat_interval_ms=max(1, round(self._session_timeout * 100)),
            rebalance_timeout_ms=round(self._session_timeout * 1000),
            max_poll_interval_ms=_NEVER_MS,
            partition_assignment_strategy=(self._assignor,),
        )
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self._leave()
            raise BrokerUnavailable(self._bootstrap, error) from error
        except BaseException:
            await self._leave()
            raise
        self._consumer.subscribe([positions], listener=self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    async def acquired(self) -> None:
        """Wait until this is the owner.

        Raises:
            aiokafka.errors.KafkaError: the group refuses this member.
        """
        assert self._consumer is not None
        owned = asyncio.ensure_future(self._owned.wait())
        try:
            while not self.owned:
                # There is nothing to be fetched; a consumer tells its errors to whoever fetches.
                fetching = asyncio.ensure_future(self._consumer.getmany(timeout_ms=_CHECK_MS))
                await asyncio.wait({owned, fetching}, return_when=asyncio.FIRST_COMPLETED)
                fetching.cancel()
                await asyncio.wait({fetching})
                if not fetching.cancelled():
                    fetching.result()
        finally:
            owned.cancel()

    async def hold(self, run: Callable[[], Awaitable[Result]]) -> Result:
        """Run for as long as this is the owner.

        Raises:
            OwnershipLost: another one is the owner now; what ran was cancelled.
            aiokafka.errors.KafkaError: the group refuses this member; what ran was cancelled.
            Exception: what `run` raised.
        """
        running = asyncio.ensure_future(run())
        lost = asyncio.ensure_future(self._lost.wait())
        refused = asyncio.ensure_future(self._refused())
        try:
            await asyncio.wait({running, lost, refused}, return_when=asyncio.FIRST_COMPLETED)
            ended, error = running.done(), _refusal(refused)
        finally:
            for task in (lost, refused, running):
                task.cancel()
            await asyncio.gather(running, lost, refused, return_exceptions=True)
        if ended or not running.cancelled():
            return running.result()
        raise error or OwnershipLost(self.topic, self.name)

    async def _refused(self) -> None:
        """Ask for errors, until there is one: aiokafka stops being a member until somebody has."""
        assert self._consumer is not None
        while True:
            await self._consumer.getmany(timeout_ms=_CHECK_MS)

    # ------------------------------------------------------------------ the group's word

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Nothing: the owner stays the owner until the group names another one."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Take note of who is the owner."""
        assert self._consumer is not None
        if assigned:
            self._consumer.pause(*assigned)
            if not self.owned:
                logger.info("this process runs receiver %r of %s", self.name, self.topic)
            self._lost.clear()
            self._owned.set()
            return
        logger.warning(
            "receiver %r of topic %s runs elsewhere (%s): this one waits, and takes over within"
            " %.0f s of its end",
            self.name,
            self.topic,
            self._assignor.owner.place or "place unknown",
            self._session_timeout + 4.0,
        )
        self._owned.clear()
        self._lost.set()

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._owned.clear()
        self._lost.clear()
        if consumer is not None:
            with contextlib.suppress(KafkaError):
                await consumer.stop()


def _refusal(asking: asyncio.Future[None]) -> BaseException | None:
    """What the group has said to whoever asks; its client may have been cancelled, too."""
    if not asking.done():
        return None
    return KafkaError("the client has ended") if asking.cancelled() else asking.exception()


def choose(words: Mapping[str, _Word]) -> tuple[str, _Word]:
    """The owner among members, and its word as the owner.

    Whoever was named last keeps what it has; without one it is the member with the first id.
    """
    owner = min(words, key=lambda member: (-words[member].term, member))
    word = words[owner]
    if word.term:
        return owner, word
    next_term = max(word.seen for word in words.values()) + 1
    return owner, _Word(next_term, next_term, word.place)


class _OwnerAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """Gives the one partition to the owner, and tells everybody who that is.

    aiokafka takes an instance in place of a class.
    """

    name = "streamapp-owner"

    def __init__(self, place: str) -> None:
        self._place = place
        self._term = 0
        self.owner = _Word()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what this member says of itself when it joins."""
        word = _Word(self._term, self.owner.term, self._place)
        return ConsumerProtocolMemberMetadata(0, sorted(topics), msgspec.json.encode(word))

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Assign the partition."""
        owner, word = choose(
            {member: _word(metadata.user_data) for member, metadata in members.items()}
        )
        return {
            member: ConsumerProtocolMemberAssignment(
                0,
                [(topic, [0]) for topic in metadata.subscription] if member == owner else [],
                msgspec.json.encode(word),
            )
            for member, metadata in members.items()
        }

    def on_assignment(self, assignment: Any) -> None:
        """Take note of the owner."""
        self.owner = _word(assignment.user_data)
        self._term = self.owner.term if assignment.assignment else 0


def _word(user_data: bytes | None) -> _Word:
    try:
        return msgspec.json.decode(user_data or b"{}", type=_Word)
    except msgspec.DecodeError:
        return _Word()
