"""What all receivers have in common: a position, a topic, a state that can be looked at.

A receiver's life begins at its durable position and ends with its source, with `stop`, or with an
error. It may have many lives: `supervised` starts the next one from the position of the last.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, Generic, TypeVar

import msgspec

from streamapp.errors import StreamappError
from streamapp.receivers.clock import Clock
from streamapp.receivers.connection import Bootstrap
from streamapp.receivers.errors import OwnershipLost, TakenOver
from streamapp.receivers.ownership import Ownership
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.supervision import Directive, Failure, Supervision

__all__ = ["DIRECTIVES", "Receiver", "State", "Status"]

Position = TypeVar("Position", bound=msgspec.Struct)
Result = TypeVar("Result")

DIRECTIVES: Final[Mapping[type[Exception], Directive]] = {StreamappError: Directive.ESCALATE}
"""Our own errors tell an operator what to do; whatever else fails is worth another try."""

_RATE_WINDOW = 10.0


class State(StrEnum):
    """What a receiver is doing."""

    #: Not started.
    IDLE = "idle"
    #: Another one is the owner.
    WAITING = "waiting"
    #: Connecting to Kafka and reading its position.
    STARTING = "starting"
    RUNNING = "running"
    #: Pausing after a failure.
    RESTARTING = "restarting"
    #: At the end of its source, or stopped.
    ENDED = "ended"
    #: Ended by an error.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """A receiver at one moment.

    Attributes:
        name, topic: which one.
        reliable: whether nothing is lost when it crashes, since its source can be read again.
        state: what it is doing.
        records: published, over all of its lives in this process.
        rate: records a second, over the last ten seconds.
        lag: how much its source still has, in the source's own measure; None where it cannot tell.
        restarts: after failures.
        last_error: what it failed with last; None when it never did.
    """

    name: str
    topic: str
    reliable: bool
    state: State
    records: int
    rate: float
    lag: int | None
    restarts: int
    last_error: str | None


class Receiver(ABC, Generic[Position, Result]):
    """Publishes an outside source to a topic, each record with the position behind it.

    A subclass says in `receive` how its source is read, and calls `published` for every
    transaction.

    Args:
        topic: where records go; created with `partitions` if it is missing.
        name: under which the position is kept.
        position_type: what a position is.
        bootstrap: the broker's address, `host:port`, or a `Connection`.
        partitions: of a new topic.
        patience: seconds for which a failing broker is asked again.
        clock: what tells the time.
    """

    reliable: ClassVar[bool]
    """Whether the source can be read again from a position."""

    def __init__(
        self,
        topic: str,
        name: str,
        position_type: type[Position],
        *,
        bootstrap: Bootstrap = "localhost:9092",
        partitions: int = 4,
        patience: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self.topic = topic
        self.name = name
        self.bootstrap = bootstrap
        self._position_type = position_type
        self._partitions = partitions
        self._patience = patience
        self._clock = clock or Clock()
        self._stopping = asyncio.Event()
        self._state = State.IDLE
        self._records = 0
        self._lag: int | None = None
        self._restarts = 0
        self._last_error: str | None = None
        self._recent: deque[tuple[float, int]] = deque()

    # ------------------------------------------------------------------ its life

    def check(self) -> None:
        """Look at the source from here, also before it is this one's turn.

        Raises:
            SourceError: it cannot be read.
        """

    async def prepare(self) -> None:
        """Make the source ready, when it is this one's turn and before Kafka is asked for anything.

        Raises:
            StreamappError: it cannot be, and an operator has to do something about it.
        """

    @abstractmethod
    async def receive(self, publisher: PositionedPublisher[Position]) -> Result:
        """Publish from `publisher.position` on, until the end of the source or `stop`."""

    async def run(self) -> Result:
        """Live once: publish until the end of the source, or until `stop`.

        Raises:
            SourceError: the source cannot be read.
            BrokerUnavailable, TakenOver, PublishError, PositionError, TopicError: see
                `PositionedPublisher`.
        """
        self._state = State.STARTING
        try:
            self.check()
            await self.prepare()
            async with PositionedPublisher(
                self.bootstrap,
                self.topic,
                self.name,
                self._position_type,
                partitions=self._partitions,
                patience=self._patience,
                clock=self._clock,
            ) as publisher:
                self._state = State.RUNNING
                result = await self.receive(publisher)
        except BaseException as error:
            self._state = State.FAILED
            if isinstance(error, Exception):
                self._last_error = f"{type(error).__name__}: {error}"
            raise
        self._state = State.ENDED
        return result

    async def supervised(
        self, supervision: Supervision | None = None, ownership: Ownership | None = None
    ) -> Result | None:
        """Live again and again, as the supervision says, and only while being the owner.

        Args:
            supervision: what becomes of an error; by default `DIRECTIVES`.
            ownership: decides whose turn it is; without one nobody else is asked. Between two
                lives the receiver leaves its group: whoever waits may have more luck.

        Returns:
            What the last life returned; None when it was stopped without one.

        Raises:
            SourceError: the source cannot be read, as can be seen at once.
            RestartsExhausted: it failed too often.
            Exception: whatever escalates.
        """
        if supervision is None:
            supervision = Supervision(
                {**DIRECTIVES, TakenOver: Directive.RESTART} if ownership else DIRECTIVES,
                monotonic=self._clock.monotonic,
                sleep=self._pause,
            )

        self.check()

        async def live() -> Result | None:
            return await (self.run() if ownership is None else self._run_as_owner(ownership))

        return await supervision.supervise(
            live, f"receiver {self.name!r} of topic {self.topic!r}", on_failure=self._failed
        )

    async def _run_as_owner(self, ownership: Ownership) -> Result | None:
        async with ownership:
            while not self.stopping:
                self._state = State.WAITING
                if not await self._unless_stopped(ownership.acquired()):
                    break
                try:
                    return await ownership.hold(self.run)
                except OwnershipLost:
                    continue
        self._state = State.ENDED
        return None

    def _failed(self, failure: Failure) -> None:
        if failure.directive is Directive.STOP:
            self._state = State.ENDED
            return
        self._last_error = f"{type(failure.error).__name__}: {failure.error}"
        self._state = State.RESTARTING
        self._restarts += 1

    def stop(self) -> None:
        """Ask `run` to return once what was read is committed."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    # ------------------------------------------------------------------ how it is doing

    @property
    def status(self) -> Status:
        """How the receiver is doing now."""
        return Status(
            name=self.name,
            topic=self.topic,
            reliable=self.reliable,
            state=self._state,
            records=self._records,
            rate=self._rate(),
            lag=self._lag,
            restarts=self._restarts,
            last_error=self._last_error,
        )

    def published(self, records: int, lag: int | None = None) -> None:
        """Count a committed transaction; `lag` is what the source still has."""
        self._records += records
        self._lag = lag
        self._recent.append((self._clock.monotonic(), records))
        self._forget()

    def _rate(self) -> float:
        self._forget()
        return sum(records for _, records in self._recent) / _RATE_WINDOW

    def _forget(self) -> None:
        since = self._clock.monotonic() - _RATE_WINDOW
        while self._recent and self._recent[0][0] <= since:
            self._recent.popleft()

    # ------------------------------------------------------------------ waiting

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not past `stop`."""
        if seconds > 0:
            await self._unless_stopped(self._clock.sleep(seconds))

    async def _unless_stopped(self, awaitable: Awaitable[object]) -> bool:
        """Wait until something is done or `stop` is called; whether it was done.

        Raises:
            Exception: what the awaitable raised.
        """
        waiting = asyncio.ensure_future(awaitable)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            done = waiting.done()
        finally:
            waiting.cancel()
            stopping.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)
        if done:
            waiting.result()
        return done
