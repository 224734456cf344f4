"""What keeps a worker or a receiver from its work, in a few words: what `streamapp health` tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from streamapp.receivers.receiver import Receiver, State, Status

if TYPE_CHECKING:
    from streamapp.engine.app import App

__all__ = ["PATIENCE", "Stalls", "trouble_of_receiver", "trouble_of_worker"]

PATIENCE: Final = 60.0
"""Seconds for which a task may have records, or open, without a commit or anything restored."""

_WELL = frozenset({State.RUNNING, State.WAITING, State.ENDED})


class Progressing(Protocol):
    """A task, as far as its progress can be seen."""

    @property
    def name(self) -> str: ...

    @property
    def quiet(self) -> bool: ...

    @property
    def steps(self) -> int: ...


class Stalls:
    """Finds tasks that have something to do and do not get on.

    Args:
        monotonic: tells seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        #: By task: its steps when it was seen to get on last, and when that was.
        self._seen: dict[str, tuple[int, float]] = {}

    def trouble(self, tasks: Iterable[Progressing]) -> str | None:
        """The task that is stuck for longest, if one is for more than `PATIENCE` seconds."""
        now = self._monotonic()
        seen, self._seen = self._seen, {}
        for task in tasks:
            before = seen.get(task.name)
            stuck = before is not None and not task.quiet and before[0] == task.steps
            since = before[1] if before is not None and stuck else now
            self._seen[task.name] = task.steps, since
        if not self._seen:
            return None
        name, (_, since) = min(self._seen.items(), key=lambda item: item[1][1])
        if now - since <= PATIENCE:
            return None
        return f"task {name} has committed and restored nothing for {now - since:,.0f} s"


def trouble_of_receiver(receiver: Receiver[Any, Any]) -> Callable[[], str | None]:
    """Tells what is wrong with a receiver."""
    return lambda: _trouble(receiver.status)


def trouble_of_worker(app: App) -> Callable[[], str | None]:
    """Tells what is wrong with the engine and the receivers of an application."""
    stalls = Stalls()

    def trouble() -> str | None:
        statuses = [] if app.receiving is None else app.receiving.statuses
        found = next(filter(None, map(_trouble, statuses)), None)
        if found is None and app.engine is not None:
            found = stalls.trouble(
                runner for group in app.engine.groups for runner in group.runners.values()
            )
        return found

    return trouble


def _trouble(status: Status) -> str | None:
    if status.state in _WELL:
        return None
    failed = f" after {status.last_error}" if status.last_error else ""
    return f"receiver {status.name} is {status.state}{failed}"
