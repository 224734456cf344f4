"""How far a worker is with the opening of its tasks: for a terminal, a page, or a line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Opening", "Recovery", "RestoreProgress"]

log = logging.getLogger(__name__)

#: Between two lines of the log, in seconds.
_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far the restore of one task is, or of several together.

    Attributes:
        task: `topology/partition`, or how many there are.
        state: `waiting` for its turn or for the transaction coordinator, `restoring`, or `open`.
        records: changelog records applied.
        bytes: what they left in the store, keys and values.
        done: offsets of the changelogs read so far, of `total` that were missing. Where compaction
            has been, there are fewer records than offsets.
        seconds: since the restore began.
    """

    task: str
    state: str
    records: int = 0
    bytes: int = 0
    done: int = 0
    total: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest takes at this pace; `None` before there is a pace."""
        if self.done >= self.total:
            return 0.0
        return (self.total - self.done) * self.seconds / self.done if self.done else None


class Opening:
    """One task on its way to work; the restore moves it."""

    def __init__(
        self, task: str, clock: Callable[[], float], moved: Callable[[], None] = lambda: None
    ) -> None:
        self.task = task
        self.state = "waiting"
        self._clock = clock
        self._moved = moved
        self._began: float | None = None
        self._ended: float | None = None
        self._done = self._total = self._records = self._bytes = 0

    def begin(self, total: int) -> None:
        """So many offsets are missing."""
        self.state = "restoring"
        self._began, self._total = self._clock(), total

    def move(self, done: int, records: int, size: int) -> None:
        """So much is there by now."""
        if done > self._done:
            self._moved()
        self._done, self._records, self._bytes = done, records, size

    def end(self, state: str) -> None:
        """It is over, and the clock stands still."""
        self.state, self._ended = state, self._clock()

    @property
    def progress(self) -> RestoreProgress:
        """Where it is."""
        now = self._clock() if self._ended is None else self._ended
        seconds = 0.0 if self._began is None else now - self._began
        return RestoreProgress(
            self.task, self.state, self._records, self._bytes, self._done, self._total, seconds
        )


class Recovery:
    """The openings of a worker, over all topologies, from the first one to when none is left.

    Arguments:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._ended = 0.0
        self._openings: dict[str, Opening] = {}
        self._active = 0
        #: How often one of them has got further.
        self.moves = 0
        #: Whether somebody shows it as it goes, so that the log need not.
        self.shown = False

    @property
    def active(self) -> bool:
        """Whether a task is on its way."""
        return self._active > 0

    @property
    def seconds(self) -> float:
        """How long this has been going on, or has taken, the waiting included."""
        return (self._clock() if self._active else self._ended) - self._began

    @contextmanager
    def opening(self, task: str) -> Iterator[Opening]:
        """A task opens: the block ends when it is open, or is not going to be for now."""
        if not self._active:
            self._openings = {}
            self._began = self._clock()
        opening = self._openings[task] = Opening(task, self._clock, self._moved)
        self._active += 1
        try:
            yield opening
        except BaseException:
            if self._openings.get(task) is opening:
                del self._openings[task]
            raise
        else:
            opening.end("open")
        finally:
            self._active -= 1
            self._ended = self._clock()

    def _moved(self) -> None:
        self.moves += 1

    @property
    def tasks(self) -> list[RestoreProgress]:
        """Each task that is on its way, and those that got there meanwhile."""
        return [opening.progress for opening in self._openings.values()]

    @property
    def total(self) -> RestoreProgress:
        """All of them together, as far as is known what they miss."""
        tasks = self.tasks
        opened = sum(task.state == "open" for task in tasks)
        return RestoreProgress(
            task=f"{opened} of {len(tasks)} tasks are open",
            state="restoring" if self.active else "open",
            records=sum(task.records for task in tasks),
            bytes=sum(task.bytes for task in tasks),
            done=sum(task.done for task in tasks),
            total=sum(task.total for task in tasks),
            seconds=self.seconds,
        )

    async def report(self) -> None:
        """Write a line to the log every ten seconds while it goes on and nobody shows it."""
        while True:
            await asyncio.sleep(_EVERY)
            if self.active and not self.shown and self.seconds >= _EVERY:
                log.info("%s", describe(self.total))


def describe(progress: RestoreProgress) -> str:
    """Return a line on a restore, for people."""
    share = 100 * progress.done // progress.total if progress.total else 0
    line = (
        f"{progress.task}; restored {progress.records:,} changelog records, "
        f"{progress.bytes / 1e6:,.1f} MB, {share} %"
    )
    remaining = progress.remaining
    return line if not remaining else f"{line}, {remaining:,.0f} s to go"
