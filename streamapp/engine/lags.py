"""How far a worker's standby tasks are behind: said in the log, and to the group when it is little."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

__all__ = ["Lags"]

log = logging.getLogger(__name__)

#: How often lags are looked at, and said while they are large, in seconds.
_LOOK_EVERY, _SAY_EVERY = 1.0, 60.0
#: How long to wait before the group is asked again for tasks that were near enough, at first and at
#: most: by the time that all have met, the tasks may have gone too far ahead.
_ASK_AGAIN = (5.0, 300.0)


class Lags:
    """The lags of the standby tasks of one topology.

    Arguments:
        acceptable: how many offsets behind a task is to be given to this worker.
        near: asks the group for the tasks that this worker warms up for.
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        topology: str,
        acceptable: int,
        near: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topology = topology
        self._acceptable = acceptable
        self._near = near
        self._now = now
        #: How many offsets each task is behind in each of its changelogs, where it is known.
        self.by_task: Mapping[int, Mapping[str, int]] = {}
        self.tasks: frozenset[int] = frozenset()
        #: Those of the tasks that this worker is to run as soon as it is near enough.
        self.warming: frozenset[int] = frozenset()
        self._asked = False
        self._ask_after = 0.0
        self._ask_pause = _ASK_AGAIN[0]
        self._look_after = 0.0
        self._say_after = 0.0
        self._caught_up = False

    def assign(self, tasks: Collection[int], warming: Collection[int]) -> None:
        """Take up another assignment."""
        self.tasks, self.warming = frozenset(tasks), frozenset(warming)
        self.by_task = {task: self.by_task[task] for task in self.tasks & self.by_task.keys()}
        self._asked = self._caught_up = False
        self._say_after = self._now() + _SAY_EVERY
        if not warming:
            self._ask_after, self._ask_pause = 0.0, _ASK_AGAIN[0]

    @property
    def _waiting(self) -> bool:
        return bool(self.warming) and not self._asked and self._now() >= self._ask_after

    @property
    def due(self) -> bool:
        """Whether it is time to look at the lags again."""
        return self._waiting or self._now() >= self._look_after

    def seen(self, by_task: Mapping[int, Mapping[str, int]], resting: Collection[int] = ()) -> None:
        """Take what the lags are now, of the tasks of which it is known.

        Arguments:
            resting: tasks that cannot go on for the time being; the others do not wait for them.
        """
        now = self._now()
        self._look_after = now + _LOOK_EVERY
        self.by_task = by_task
        behind = {task: sum(lags.values()) for task, lags in by_task.items()}
        self._ask(behind, self.warming - set(resting))
        if not self._caught_up and self.tasks == behind.keys() and not any(behind.values()):
            self._caught_up = True
            log.info("%s: standbys %s are caught up", self._topology, sorted(behind))
        if now >= self._say_after and sum(behind.values()) > self._acceptable:
            self._say_after = now + _SAY_EVERY
            log.info("%s: standbys are behind by %s", self._topology, behind)

    def _ask(self, behind: Mapping[int, int], warming: frozenset[int]) -> None:
        # Half of it: the tasks go on until the group has met.
        near = self._acceptable // 2
        if not self._waiting or not warming or not warming <= behind.keys():
            return
        if all(behind[task] <= near for task in warming):
            self._asked = True
            self._ask_after = self._now() + self._ask_pause
            self._ask_pause = min(2 * self._ask_pause, _ASK_AGAIN[1])
            log.info("%s: near enough to tasks %s", self._topology, sorted(warming))
            self._near()
