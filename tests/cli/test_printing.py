"""What an application prints is in the log, a line for each line."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from streamapp.cli.printing import printing_to_log


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Print in several ways, and return what was logged."""
    with caplog.at_level(logging.INFO), printing_to_log(logging.INFO):
        print("a", 1, "b")
        print("begun", end=" ")
        thread = threading.Thread(target=print, args=("from", "elsewhere"))
        thread.start()
        thread.join()
        print("and ended")
        print("two\nlines")
        print()
        print("to stderr", 2, file=sys.stderr)
        print("flushed", end="", flush=True)
        print("the end", end="")
    return [record.getMessage() for record in caplog.records]


def test_a_line_is_a_message(lines: list[str]) -> None:
    assert lines == [
        "a 1 b",
        "from elsewhere",
        "begun and ended",
        "two",
        "lines",
        "to stderr 2",
        "flushed",
        "the end",
    ]
