"""Named points at which a test can make the process fail, or do anything else.

Code that must survive a crash calls `fault_point("receiver.before-commit")` where a crash would
hurt most. The call does nothing, at the cost of one truth test, until one of two things arms it:

- the environment: `STREAMAPP_FAULT="receiver.before-commit:3"` kills this process with SIGKILL the
  third time it passes that point (without a number: the first time), as a crash would: no clean-up,
  no flush; `receiver.before-commit:3:stop` stops it there with SIGSTOP, until SIGCONT;
- a test in the same process: `with inject("receiver.before-commit", action, nth=3): ...`.

Names are `component.moment`, so that a list of them reads like the life of the component.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

__all__ = ["ENVIRONMENT", "fault_point", "inject"]

ENVIRONMENT = "STREAMAPP_FAULT"
"""The environment variable that arms one point: `name`, `name:nth` or `name:nth:stop`."""


class _Fault:
    """What happens the nth time a point is passed; before and after that, nothing."""

    __slots__ = ("action", "name", "remaining")

    def __init__(self, name: str, action: Callable[[], object], nth: int) -> None:
        if nth < 1:
            raise ValueError(f"fault {name!r}: nth counts passes from 1, not {nth}")
        self.name = name
        self.action = action
        self.remaining = nth

    def passed(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self.action()


_HOW: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def _signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _from_environment(setting: str | None) -> list[_Fault]:
    if not setting:
        return []
    name, *rest = setting.split(":")
    nth, how = [*rest, *("1", "kill")[len(rest) :]][:2]
    if not name or len(rest) > 2 or not nth.isdecimal() or how not in _HOW:
        raise ValueError(f"{ENVIRONMENT}={setting!r}: expected NAME, NAME:NTH or NAME:NTH:stop")
    return [_Fault(name, partial(_signal, _HOW[how]), int(nth))]


_armed: list[_Fault] = _from_environment(os.environ.get(ENVIRONMENT))


def fault_point(name: str) -> None:
    """Pass the point `name`: nothing happens unless a fault is armed there.

    Raises:
        Exception: whatever an injected action raises; it reaches the caller as if the code at the
            point had raised it.
    """
    if _armed:
        for fault in tuple(_armed):
            if fault.name == name:
                fault.passed()


@contextmanager
def inject(name: str, action: Callable[[], object], nth: int = 1) -> Iterator[None]:
    """Run `action` the `nth` time the point `name` is passed within the block, once.

    Args:
        name: the point.
        action: called without arguments; what it raises is raised at the point.
        nth: which pass, counted from 1.
    """
    fault = _Fault(name, action, nth)
    _armed.append(fault)
    try:
        yield
    finally:
        _armed.remove(fault)
