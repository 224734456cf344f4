"""A worker's place in a topology's group: which assignment holds, and whether it is still the worker's.

aiokafka has no word for a member that was dropped, and a process does not notice that it was stopped.
So assignments are counted (the *epoch*), the group is asked before anybody is fenced, and a worker that
did nothing for too long asks before it lets out what no fence holds back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from streamapp.engine import seams
from streamapp.engine.cancellation import end
from streamapp.errors import ConfigurationError

__all__ = ["Membership"]

log = logging.getLogger(__name__)

#: A named worker that is replaced so often in so many session timeouts is not alone with its name. One
#: that stalls is replaced after a session timeout at the earliest, so never as often as that.
_REPLACED_MOST = 3
_REPLACED_WITHIN = 2.0
#: The part of a session timeout after which a member that did nothing may have been replaced: its last
#: heartbeat was some time before.
_DOUBTFUL = 0.5


class Membership:
    """The place in one group.

    Arguments:
        group: its name.
        session_timeout: seconds after which the group gives a silent member's partitions to others.
        instance: of a static member (KIP-345).
        drop_output: drops what is on its way outside of transactions.
    """

    def __init__(
        self,
        group: str,
        session_timeout: float,
        instance: str | None,
        drop_output: Callable[[], Awaitable[None]],
    ) -> None:
        #: Counts assignments and revocations: what was begun under another number is void.
        self.epoch = 0
        #: Of the group, at the last assignment.
        self.generation = -1
        self._group = group
        self._session_timeout = session_timeout
        self._instance = instance
        self._drop_output = drop_output
        self._consumer: AIOKafkaConsumer | None = None
        self._confirming: asyncio.Task[bool] | None = None
        self._asked = self._stalled = float("-inf")
        self._member: str | None = None
        #: When the group was found to have replaced this member.
        self._replaced: list[float] = []
        #: When this process was last seen at work; up to which epoch others may have its tasks, since
        #: it was still for too long in it; and whether output of that epoch may be on its way.
        self._alive = time.monotonic()
        self._doubted = -1
        self._output_doubted = False
        self._dropping: asyncio.Task[None] | None = None

    def joins(self, consumer: AIOKafkaConsumer) -> None:
        """Name the consumer that is the member."""
        self._consumer = consumer

    def revoked(self) -> None:
        """The assignment holds no more."""
        self.epoch += 1

    def assigned(self) -> bool:
        """There is a new assignment; return whether this member was in the group all the time.

        A member that missed a generation of the group was dropped meanwhile: what it is assigned
        now may have been another worker's, and have gone on there.

        Raises:
            ConfigurationError: another worker of this name replaces this one again and again.
        """
        assert self._consumer is not None
        self.epoch += 1
        before, self.generation = self.generation, seams.generation(self._consumer)
        self._check_replaced(seams.member_id(self._consumer))
        return self.generation == before + 1

    def _check_replaced(self, member: str) -> None:
        """Notice a second worker of this name on another host: each replaces the other, for ever.

        A rebalance leaves a member its id; it has a new one when the group had dropped it.
        """
        now = time.monotonic()
        within = _REPLACED_WITHIN * self._session_timeout
        if self._member not in (None, member):
            self._replaced = [at for at in self._replaced if now - at < within] + [now]
        self._member = member
        if self._instance is not None and len(self._replaced) >= _REPLACED_MOST:
            raise ConfigurationError(
                f"the group {self._group} has replaced the worker {self._instance} {len(self._replaced)} times within "
                f"{within:.0f} s: another worker has the same --name on another host; give each worker its own name"
            )

    async def confirmed(self, epoch: int) -> bool:
        """Ask the coordinator whether an assignment still holds; one request for all tasks."""
        while True:
            if epoch != self.epoch or self._consumer is None:
                return False
            if self._confirming is None or self._confirming.done():
                self._asked = time.monotonic()
                self._confirming = asyncio.get_running_loop().create_task(
                    seams.heartbeat(self._consumer, self.generation)
                )
            asked = self._asked
            try:
                member = await asyncio.shield(self._confirming)
            except KafkaError as error:
                log.warning("%s: the group does not answer: %s", self._group, error)
                return False
            # The answer to what was asked before this process stood still says nothing of now.
            if asked >= self._stalled:
                break
        if member and epoch == self.epoch:
            self._doubted, self._output_doubted = -1, False
            return True
        return False

    async def still_here(self, epoch: int) -> bool:
        """Whether a task may let something out, under its assignment, that no fence holds back.

        A process that was still for so long that it may have missed its heartbeats (stopped, swapped out, its host suspended) has
        to ask the group first: another worker may have its tasks by now.
        """
        self.live()
        return epoch > self._doubted or await self.confirmed(epoch)

    async def may_send(self) -> bool:
        """Whether a request with output may leave; without the group's word it is dropped for good."""
        self.live()
        if not self._output_doubted or await self.confirmed(self._doubted):
            return True
        if self._dropping is None:
            # Not here: this runs in the producer that is closed.
            self._dropping = asyncio.get_running_loop().create_task(self._drop())
        return False

    async def _drop(self) -> None:
        await self._drop_output()
        self._output_doubted, self._dropping = False, None

    def live(self) -> None:
        """Take note that this process is at work; to be called often."""
        now = time.monotonic()
        if now - self._alive > _DOUBTFUL * self._session_timeout:
            log.warning(
                "%s: nothing was done for %.1f s, and others may have the tasks: the group is asked before output leaves",
                self._group,
                now - self._alive,
            )
            self._doubted, self._output_doubted = self.epoch, True
            self._stalled = now
        self._alive = now

    async def close(self) -> None:
        """Ask no more, and let what is being dropped be dropped."""
        if self._confirming is not None:
            await end(self._confirming)
        if self._dropping is not None:
            await self._dropping
