"""Where CPU time goes, by sampling: a tracing profiler makes small functions look expensive."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["Sampler"]

_EVERY = 0.001


class Sampler:
    """Looks at the main thread's stack after each millisecond of CPU time.

    Time in C is charged to the Python function that called it, at its line.
    """

    def __init__(self) -> None:
        #: Samples by innermost line, and by every function on the stack.
        self.lines: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample the block."""
        before = signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        del number
        seen = set()
        if frame is not None:
            self.lines[f"{_name(frame)} line {frame.f_lineno}"] += 1
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        self.functions.update(seen)

    def report(self, most: int = 40) -> str:
        """Return the shares of lines, then of functions with what they call."""
        total = max(self.lines.total(), 1)
        parts = [f"{self.lines.total()} samples"]
        for title, found in (("innermost lines", self.lines), ("with callees", self.functions)):
            parts.append(f"\n{title}")
            parts += [f"{n / total:6.1%} {name}" for name, n in found.most_common(most)]
        return "\n".join(parts) + "\n"


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-2:])} {code.co_qualname}"
