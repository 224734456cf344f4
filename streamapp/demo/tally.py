"""What the demo's topics say so far, added up: the numbers that the view shows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from streamapp.engine import WindowRecord
from streamapp.engine.marker import LedgerEntry
from streamapp.receivers.positions import Committed
from streamapp.receivers.tail import FilePosition
from streamapp.receivers.topics import positions_of

__all__ = ["CommittedBatch", "Tally", "WindowCounts"]

LINES: Final = "log-lines"
ERRORS: Final = "streamapp-errors-by-key"
WINDOWS: Final = "error-windows"
FINDING: Final = "find_errors"
COUNTING: Final = "count_errors"
LEDGERS: Final = {f"streamapp-{topology}-ledger" for topology in (FINDING, COUNTING)}
ALL_MODULES: Final = "*"

_RECENT = 20


@dataclass(slots=True)
class CommittedBatch:
    """A batch in a committed checkpoint; durations in milliseconds.

    `commit` is known once the task has committed again: it is in its next entry of the ledger.
    """

    id: str
    topology: str
    records: int
    processing: float
    commit: float | None = None


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


class Tally:
    """Takes the records of the demo's topics, each partition's in order.

    Attributes:
        ingested: lines that the receiver has published.
        position: how far it is in the file.
        processed: records of the log's topic in committed checkpoints.
        batches: committed batches, of both topologies.
        recent: the latest of them, the newest last.
        watermark: how far event time has come where windows are counted, in milliseconds.
        errors: counted so far.
        highest: errors in the window that has the most.
        modules: in the order in which they came up.
        late, dead_letters: as the ledger counts them.
    """

    def __init__(self) -> None:
        self.ingested = 0
        self.position: FilePosition | None = None
        self.processed = 0
        self.batches = 0
        self.late = 0
        self.dead_letters = 0
        self.recent: deque[CommittedBatch] = deque(maxlen=_RECENT)
        self.watermark: int | None = None
        self.errors = 0
        self.highest = 0
        self.modules: list[str] = []
        self.windows: dict[int, WindowCounts] = {}
        self._last: dict[tuple[str, int], CommittedBatch | None] = {}
        #: Behind the last record, and up to where it is counted, of each partition of `ERRORS`.
        self._found: dict[int, int] = {}
        self._counted: dict[int, int] = {}

    @staticmethod
    def topics() -> set[str]:
        """The topics that it wants to be told."""
        return {WINDOWS, ERRORS, positions_of(LINES), *LEDGERS}

    @staticmethod
    def whole_topics() -> set[str]:
        """Those of them that it needs from their first record on."""
        return {WINDOWS, *LEDGERS}

    @property
    def settled(self) -> bool:
        """Whether all that is ingested is counted, as far as the topics were read."""
        return self.processed >= self.ingested and all(
            self._counted.get(partition, 0) >= end for partition, end in self._found.items()
        )

    def take(self, topic: str, partition: int, offset: int, key: Any, value: bytes | None) -> None:
        """Add a record of one of the `topics`."""
        if topic == ERRORS:
            # Marks of the watermark have neither: nothing is counted there.
            if key is not None or value is not None:
                self._found[partition] = offset + 1
        elif value is None:
            return
        elif topic == WINDOWS:
            self._take_window(_decode_window(value))
        elif topic == positions_of(LINES):
            committed = _decode_position(value)
            self.ingested = committed.published
            self.position = msgspec.json.decode(committed.position, type=FilePosition | None)
        elif topic in LEDGERS:
            self._take_checkpoint(_decode_entry(value))

    def _take_window(self, record: WindowRecord) -> None:
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

    def _take_checkpoint(self, entry: LedgerEntry) -> None:
        task = entry.topology, entry.partition
        before = self._last.get(task)
        if before is not None:
            before.commit = entry.previous_commit
        batch = None
        for part in entry.batches:
            if part.topic == LINES:
                self.processed += part.records
            if part.topic == ERRORS:
                self._counted[part.partition] = part.until_offset
            if not part.records:
                continue  # the watermark alone moved
            self.batches += 1
            batch = CommittedBatch(
                f"{part.topic}:{part.partition}:{part.from_offset}-{part.until_offset}",
                entry.topology,
                part.records,
                entry.processing,
            )
            self.recent.append(batch)
        self._last[task] = batch
        self.late += entry.late
        self.dead_letters += entry.dead_letters
        if entry.topology == COUNTING and entry.watermark is not None:
            # All tasks hear the same marks, and one without open windows has nothing to commit.
            self.watermark = max(self.watermark or entry.watermark, entry.watermark)


_decode_window = msgspec.json.Decoder(WindowRecord).decode
_decode_entry = msgspec.json.Decoder(LedgerEntry).decode
_decode_position = msgspec.json.Decoder(Committed).decode
