"""What becomes of a batch that failed: its agent's policy, carried out for one task.

Pausing, publishing and opening anew are the caller's; here is decided which parts of the batch come
next, and counted what budgets allow.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamapp.engine.checkpoint import Slice
from streamapp.engine.error_policy import ErrorPolicy, OnError
from streamapp.engine.parts import Fault, Part, condemned_batch, condemned_record, suspected
from streamapp.engine.settings import EngineSettings, Guarantee
from streamapp.engine.topology import Topology
from streamapp.errors import AgentFailed, AgentStopped, TaskClosed
from streamapp.supervision import Budget

__all__ = ["ErrorHandling", "ranges"]

log = logging.getLogger(__name__)

_SKIPS = (OnError.SKIP_RECORD, OnError.SKIP_BATCH)


class _Case(NamedTuple):
    """A part that failed, how, and in which words that is told."""

    part: Part
    fault: Fault
    policy: ErrorPolicy
    told: str
    #: The batch is not divided: an outside system knows it by its id.
    whole: bool

    def can(self, skip: OnError) -> bool:
        """Whether something can be skipped: records are to blame, and one can be told from others."""
        part = self.part
        if skip is OnError.SKIP_RECORD and self.whole:
            return False
        return not self.fault.in_window and part.condemned is None and bool(part.places)


class ErrorHandling:
    """Decides for one task, and remembers for it how often it has failed.

    Arguments:
        monotonic, chance: seconds, and a random number in [0, 1); given by a test.
    """

    def __init__(
        self,
        topology: Topology,
        partition: int,
        settings: EngineSettings,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._topology = topology
        self._partition = partition
        self._settings = settings
        self._monotonic = monotonic
        self._chance = chance
        #: Attempts at the part at hand that have failed; at most once, the parts in a row.
        self._failed = 0
        #: What is spent, by the budget that a policy names.
        self._spent: dict[Budget, Budget] = {}

    def succeeded(self) -> None:
        """A part is committed: the next one has all its attempts."""
        self._failed = 0

    def failed(self, part: Part, fault: Fault) -> tuple[list[Part], float]:
        """Return what to process in place of a part that failed, and how many seconds to pause before.

        Raises:
            AgentFailed: the worker has to end.
            AgentStopped: the task has to stop.
            TaskClosed: it has to open anew.
        """
        # What fails behind the agents (a value that cannot be stored, a window) has none.
        agent = fault.agent or self._topology.agents[0]
        policy = agent.errors or self._settings.errors
        case = _Case(part, fault, policy, self._told(part, fault), self._topology.presents)
        directive = policy.directive(fault.error)
        if directive in _SKIPS and not case.can(directive):
            directive = OnError.RETRY
        if self._settings.guarantee is Guarantee.AT_MOST_ONCE and part.slices:
            return self._lost(case, directive)
        if directive is OnError.RETRY:
            self._failed += 1
            if self._failed < policy.attempts:
                pause = policy.backoff.delay(self._failed - 1, self._chance())
                log.warning(
                    "%s: it is tried again in %.1f s", case.told, pause, exc_info=fault.error
                )
                return [part], pause
            case = case._replace(told=f"{case.told}, {self._failed} times")
            self._failed = 0
            directive = policy.then
            if directive in _SKIPS and not case.can(directive):
                directive = OnError.ESCALATE
        if directive not in _SKIPS:
            self._give_up(case, directive, "nothing of it was committed")
        if directive is OnError.SKIP_RECORD and (not part.again or len(part.places) > 1):
            if not part.again:
                log.warning("%s: the record that is to blame is looked for", case.told)
            return suspected(part, fault), 0.0
        self._spend(policy.skips, "skips", case, "nothing of it was committed")
        return condemned_batch(part, fault), 0.0

    def _lost(self, case: _Case, directive: OnError) -> tuple[list[Part], float]:
        """Return what is left under at most once: offsets are committed, and nothing runs again.

        Each batch that fails while something is down is lost, so what would be attempts at one of
        them are counted over all that fail in a row.
        """
        part, fault, policy = case.part, case.fault, case.policy
        records = len(part.places)
        gone = f"at most once, so {records} records are lost"
        kept: Part | None = None
        pause = 0.0
        if directive is OnError.RETRY:
            self._failed += 1
            if self._failed < policy.attempts:
                pause = policy.backoff.delay(self._failed - 1, self._chance())
            else:
                case = case._replace(told=f"{case.told}, {self._failed} batches in a row")
                self._failed = 0
                directive = policy.then
                if directive in _SKIPS and not case.can(directive):
                    directive = OnError.ESCALATE
        match directive:
            case OnError.SKIP_BATCH:
                kept = part._replace(condemned=fault)
            case OnError.SKIP_RECORD:
                kept = condemned_record(part, fault)
            case OnError.RESTART | OnError.STOP | OnError.ESCALATE:
                self._give_up(case, directive, gone)
        if kept is not None:
            self._spend(policy.skips, "skips", case, gone)
            records -= len(kept.places)
        log.error(
            "%s: at most once, so %d records are lost", case.told, records, exc_info=fault.error
        )
        return [] if kept is None else [kept], pause

    def _give_up(self, case: _Case, directive: OnError, outcome: str) -> None:
        if directive is OnError.RESTART:
            self._spend(case.policy.restarts, "restarts", case, outcome)
            raise TaskClosed(f"{case.told}: {outcome}") from case.fault.error
        if directive is OnError.STOP:
            raise AgentStopped(
                f"{case.told}: {outcome}; it is stopped, and the worker goes on without it"
            ) from case.fault.error
        raise self._failure(case, "", outcome) from case.fault.error

    def _spend(self, budget: Budget, what: str, case: _Case, outcome: str) -> None:
        spent = self._spent.setdefault(budget, budget.anew())
        if not spent.spend(self._monotonic()):
            after = f", after {budget.most} {what} within {budget.within:g} s"
            raise self._failure(case, after, outcome) from case.fault.error

    @staticmethod
    def _failure(case: _Case, after: str, outcome: str) -> AgentFailed:
        return AgentFailed(
            f"{case.told}{after}: {outcome}; mend the agent and start the worker again"
        )

    def _told(self, part: Part, fault: Fault) -> str:
        """Return who failed, in which batch, at which record, and how."""
        agent = "" if fault.agent is None else f" in the batch agent {fault.agent.name}"
        batch = f" in {ranges(part.slices, self._partition)}" if part.slices else ""
        record = "" if fault.offset is None else f" at offset {fault.offset} of {fault.topic}"
        task = f"{self._topology.name}/{self._partition}"
        return f"{task} failed{agent}{batch}{record} ({fault})"


def ranges(slices: Sequence[Slice], partition: int) -> str:
    """Return the ids of the batches that slices make, for a message."""
    return ", ".join(
        f"{part.topic}:{partition}:{part.from_offset}-{part.until_offset}" for part in slices
    )
