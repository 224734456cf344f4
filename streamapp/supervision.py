"""What becomes of work that fails: gone on with, started anew, given up, or handed to whoever asked.

The directive is chosen by the type of the exception, as Akka's supervisors choose it. Between two
tries there is a pause that doubles, and a budget of restarts in a sliding window: work that fails
again and again is not mended by one more try, so that its error escalates.

What a batch agent does about an exception is a choice of its own, among other directives
(`streamapp.engine.error_policy`); choosing by type, budgets and pauses are the same.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from streamapp.errors import StreamappError

__all__ = [
    "Backoff",
    "Budget",
    "Directive",
    "Failure",
    "RestartsExhausted",
    "Supervision",
    "listed_for",
]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Listed = TypeVar("Listed")


def listed_for(
    error: Exception, listed: Mapping[type[Exception], Listed], default: Listed
) -> Listed:
    """What is listed for an exception: the first of its classes, in their order, that is there."""
    for kind in type(error).__mro__:
        if kind in listed:
            return listed[kind]
    return default


class Directive(StrEnum):
    """What to do about an exception."""

    #: Run again at once, with what the work still has.
    RESUME = "resume"
    #: Let go of everything, pause, and run anew.
    RESTART = "restart"
    #: Say so, and end as if the work was done.
    STOP = "stop"
    #: Raise the exception.
    ESCALATE = "escalate"


class RestartsExhausted(StreamappError):
    """Work failed more often than its budget allows; the cause is its last error."""

    def __init__(self, name: str, budget: "Budget", error: BaseException) -> None:
        super().__init__(
            f"{name} failed again after {budget.most} restarts within {budget.within:g} s and is"
            f" given up; the last error was {type(error).__name__}: {error}"
        )


class Budget:
    """At most `most` restarts, or whatever is counted, in any `within` seconds.

    Args:
        most: 0 allows none.
        within: the length of the sliding window, in seconds.

    Raises:
        ValueError: `most` is negative, or `within` is not positive.
    """

    def __init__(self, most: int = 10, within: float = 60.0) -> None:
        if most < 0 or not within > 0:
            raise ValueError(f"a budget of {most} in {within} s makes no sense")
        self.most = most
        self.within = within
        self._spent: deque[float] = deque()

    def __repr__(self) -> str:
        return f"Budget(most={self.most}, within={self.within:g})"

    def anew(self) -> "Budget":
        """The same budget, with nothing of it spent."""
        return Budget(self.most, self.within)

    def spent(self, now: float) -> int:
        """How many were taken in the window that ends now."""
        while self._spent and now - self._spent[0] >= self.within:
            self._spent.popleft()
        return len(self._spent)

    def spend(self, now: float) -> bool:
        """Take one; False, and nothing is taken, when none is left."""
        if self.spent(now) >= self.most:
            return False
        self._spent.append(now)
        return True


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to pause: doubling from `first` up to `longest` seconds.

    Attributes:
        first, longest: seconds.
        jitter: the part of a pause that is random, so that many do not come back at one moment.
    """

    first: float = 0.1
    longest: float = 5.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest or not 0 <= self.jitter <= 1:
            raise ValueError(
                f"pauses of {self.first} s to {self.longest} s with a random part of"
                f" {self.jitter} make no sense"
            )

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to pause after `failures` earlier ones; `chance` is a random number in [0, 1)."""
        whole = min(self.longest, self.first * 2.0 ** min(failures, 64))
        return whole * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception that did not escape: what is done about it, and after how many seconds."""

    error: Exception
    directive: Directive
    delay: float = 0.0


@dataclass(slots=True)
class Supervision:
    """Runs one piece of work, and decides what becomes of it when it fails.

        supervision = Supervision({ConnectionError: Directive.RESTART, StreamappError: Directive.ESCALATE})
        await supervision.supervise(receiver.run, "the receiver")

    The budget counts restarts and resumptions alike; the pause depends on how many of them are in
    its window, so that it is short again after a time that went well. With pauses that fill the
    window before the budget is spent, nothing ever escalates.

    Attributes:
        directives: by exception type; of several that fit, the most specific one holds.
        default: for every other `Exception`. Cancellation is never touched.
        budget: how often; belongs to this work alone.
        backoff: how long to pause before a restart.
        monotonic, sleep, chance: time and randomness, given by a test.
    """

    directives: Mapping[type[Exception], Directive] = field(default_factory=dict)
    default: Directive = Directive.RESTART
    budget: Budget = field(default_factory=Budget)
    backoff: Backoff = field(default_factory=Backoff)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    def directive(self, error: Exception) -> Directive:
        """What holds for an exception."""
        return listed_for(error, self.directives, self.default)

    async def supervise(
        self,
        run: Callable[[], Awaitable[Result]],
        name: str,
        *,
        restart: Callable[[], None] | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> Result | None:
        """Run until it ends well, and return what it returns; None when it was stopped.

        Args:
            run: the work; called again for every try.
            name: what it is called in messages.
            restart: lets go of what the work has, before it runs anew; not called on resumption.
            on_failure: told about every failure before what follows from it.

        Raises:
            RestartsExhausted: the budget is spent.
            Exception: whatever escalates.
        """
        while True:
            try:
                return await run()
            except Exception as error:
                directive = self.directive(error)
                if directive is Directive.ESCALATE:
                    raise
                failure = self._failure(error, directive, name)
            if on_failure is not None:
                on_failure(failure)
            _log(name, failure)
            if directive is Directive.STOP:
                return None
            if directive is Directive.RESTART:
                if restart is not None:
                    restart()
                await self.sleep(failure.delay)

    def _failure(self, error: Exception, directive: Directive, name: str) -> Failure:
        if directive is Directive.STOP:
            return Failure(error, directive)
        now = self.monotonic()
        earlier = self.budget.spent(now)
        if not self.budget.spend(now):
            raise RestartsExhausted(name, self.budget, error) from error
        if directive is Directive.RESUME:
            return Failure(error, directive)
        return Failure(error, directive, self.backoff.delay(earlier, self.chance()))


def _log(name: str, failure: Failure) -> None:
    what = f"{name} failed ({type(failure.error).__name__}: {failure.error})"
    match failure.directive:
        case Directive.RESUME:
            logger.warning("%s: it goes on", what)
        case Directive.RESTART:
            logger.warning("%s: it starts anew in %.1f s", what, failure.delay)
        case _:
            logger.error("%s: it is stopped", what)
