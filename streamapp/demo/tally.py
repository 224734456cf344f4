"""What the demo's topics say so far, added up: what is true of every job."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec

from streamapp.engine.marker import LedgerEntry
from streamapp.receivers.positions import Committed
from streamapp.receivers.topics import positions_of

__all__ = ["CommittedBatch", "Tally"]

_RECENT: Final = 20


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


class _Place(msgspec.Struct):
    """Of a position in a file; other positions have no offset."""

    offset: int = 0


class Tally(ABC):
    """Takes the records of a job's topics, each partition's in order.

    A job has two steps at least: one that reads the source and sends partial counts to their owners,
    and one that counts them.

    Attributes:
        ingested: records that the receiver has published.
        offset: how far it is in its file, in bytes.
        processed: records of the source in committed checkpoints.
        batches: committed batches that held records, of all topologies.
        recent: the latest of them, the newest last.
        watermark: how far event time has come where windows are counted, in milliseconds.
        late, dead_letters: as the ledger counts them.
    """

    source: ClassVar[str]
    """The topic that the receiver publishes to."""

    partials: ClassVar[str]
    """The topic of partial counts."""

    results: ClassVar[str]
    """The topic of what comes out."""

    counting: ClassVar[str]
    """The topology whose watermark closes windows."""

    ledgers: ClassVar[frozenset[str]]

    windows: Mapping[int, object]
    """Those that are known, by one of their ends."""

    def __init__(self) -> None:
        self.ingested = 0
        self.offset = 0
        self.processed = 0
        self.batches = 0
        self.recent: deque[CommittedBatch] = deque(maxlen=_RECENT)
        self.late = 0
        self.dead_letters = 0
        self.watermark: int | None = None
        self._last: dict[tuple[str, int], CommittedBatch | None] = {}
        #: Behind the last record, and up to where it is counted, of each partition of `partials`.
        self._found: dict[int, int] = {}
        self._counted: dict[int, int] = {}

    @classmethod
    def topics(cls) -> set[str]:
        """The topics that it wants to be told."""
        return {cls.results, cls.partials, positions_of(cls.source), *cls.ledgers}

    @classmethod
    def whole_topics(cls) -> set[str]:
        """Those of them that it needs from their first record on."""
        return {*cls.ledgers}

    @property
    def settled(self) -> bool:
        """Whether all that is ingested is counted, as far as the topics were read."""
        return self.processed >= self.ingested and all(
            self._counted.get(partition, 0) >= end for partition, end in self._found.items()
        )

    @abstractmethod
    def take_result(self, value: bytes) -> None:
        """Add a record of `results`."""

    def take(self, topic: str, partition: int, offset: int, key: Any, value: bytes | None) -> None:
        """Add a record of one of the `topics`."""
        if topic == self.partials:
            # Marks of the watermark have neither: nothing is counted there.
            if key is not None or value is not None:
                self._found[partition] = offset + 1
        elif value is None:
            return
        elif topic == self.results:
            self.take_result(value)
        elif topic == positions_of(self.source):
            committed = _decode_position(value)
            self.ingested = committed.published
            place = msgspec.json.decode(committed.position, type=_Place | None)
            self.offset = 0 if place is None else place.offset
        elif topic in self.ledgers:
            self._take_checkpoint(_decode_entry(value))

    def _take_checkpoint(self, entry: LedgerEntry) -> None:
        task = entry.topology, entry.partition
        before = self._last.get(task)
        if before is not None:
            before.commit = entry.previous_commit
        batch = None
        for part in entry.batches:
            if part.topic == self.source:
                self.processed += part.records
            if part.topic == self.partials:
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
        if entry.topology == self.counting and entry.watermark is not None:
            # All tasks hear the same marks, and one without open windows has nothing to commit.
            self.watermark = max(self.watermark or entry.watermark, entry.watermark)


_decode_entry = msgspec.json.Decoder(LedgerEntry).decode
_decode_position = msgspec.json.Decoder(Committed).decode
