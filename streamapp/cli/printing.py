"""What an application prints while its worker runs: a line in the log for each line printed.

Faust's worker sends standard output to its log write by write, and `print(a, b)` writes four times.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from mode.utils.logging import FileLogProxy, redirect_logger

__all__ = ["LineLogProxy", "printing_to_log"]


class _Begun(threading.local):
    """What a thread has written of its next line."""

    text = ""


class LineLogProxy(FileLogProxy):
    """A file that logs whole lines, each as a message of its own."""

    def __init__(self, severity: int) -> None:
        super().__init__(redirect_logger, severity=severity)
        self._begun = _Begun()

    def write(self, text: str) -> int:
        """Log the lines that are whole by now, and keep the rest."""
        *whole, self._begun.text = (self._begun.text + text).split("\n")
        for line in whole:
            super().write(line)
        return len(text)

    def flush(self) -> None:
        """Log what is there of a line."""
        rest, self._begun.text = self._begun.text, ""
        super().write(rest)


@contextmanager
def printing_to_log(severity: int) -> Iterator[None]:
    """Let standard output and error be the log, as Faust has it."""
    out, err = LineLogProxy(severity), LineLogProxy(severity)
    with redirect_stdout(out), redirect_stderr(err):
        yield
    out.flush()
    err.flush()
