"""The errors of a log, by window and module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from streamapp.demo.tally import Tally
from streamapp.engine import WindowRecord

__all__ = ["LogTally", "WindowCounts"]

ALL_MODULES: Final = "*"


@dataclass(slots=True)
class WindowCounts:
    """Errors in the window `[start, end)` (milliseconds of event time), by module."""

    start: int
    end: int
    counts: dict[str, int] = field(default_factory=dict)
    finals: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        """Errors of all modules."""
        return self.counts.get(ALL_MODULES, 0)

    @property
    def by_module(self) -> dict[str, int]:
        """Errors of each module, the most first."""
        modules = ((name, n) for name, n in self.counts.items() if name != ALL_MODULES)
        return dict(sorted(modules, key=lambda item: (-item[1], item[0])))

    @property
    def final(self) -> bool:
        """Whether it is closed for every module and in all."""
        return ALL_MODULES in self.finals and self.finals >= self.counts.keys()


class LogTally(Tally):
    """What the count of errors says.

    Attributes:
        errors: counted so far.
        highest: errors in the window that has the most.
        modules: in the order in which they came up.
        windows: by their start.
    """

    source = "log-lines"
    partials = "streamapp-errors-by-key"
    results = "error-windows"
    counting = "count_errors"
    ledgers = frozenset({"streamapp-find_errors-ledger", "streamapp-count_errors-ledger"})

    windows: dict[int, WindowCounts]

    def __init__(self) -> None:
        super().__init__()
        self.errors = 0
        self.highest = 0
        self.modules: list[str] = []
        self.windows = {}

    @classmethod
    def whole_topics(cls) -> set[str]:
        """The windows too."""
        return {cls.results, *super().whole_topics()}

    def take_result(self, value: bytes) -> None:
        """Add the count of a window as it is now."""
        record = _decode_window(value)
        window = self.windows.get(record.start)
        if window is None:
            window = self.windows[record.start] = WindowCounts(record.start, record.end)
        before = window.counts.get(record.key)
        window.counts[record.key] = record.value
        if record.key == ALL_MODULES:
            self.highest = max(self.highest, record.value)
            # Of the windows that an error is in, one begins at a multiple of their size.
            if window.start % (window.end - window.start) == 0:
                self.errors += record.value - (before or 0)
        elif before is None and record.key not in self.modules:
            self.modules.append(record.key)
        if record.final:
            window.finals.add(record.key)


_decode_window = msgspec.json.Decoder(WindowRecord).decode
