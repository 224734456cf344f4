"""Finding a batch in the ledger by its id, with what its task knew before it."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from aiokafka import TopicPartition

from streamapp.engine.marker import LedgerEntry
from streamapp.engine.topology import Topology
from streamapp.ledger.batches import batch_id
from streamapp.ledger.errors import LedgerError
from streamapp.ledger.reading import LedgerReader

__all__ = ["BatchId", "Before", "find"]

_ID = re.compile(r"(?P<topic>[a-zA-Z0-9._-]+):(?P<partition>\d+):(?P<begin>\d+)-(?P<end>\d+)")


class BatchId(NamedTuple):
    """A batch's id, `topic:partition:from-until`, taken apart."""

    topic: str
    partition: int
    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take an id apart.

        Raises:
            LedgerError: it is none.
        """
        found = _ID.fullmatch(text)
        if found is None:
            raise LedgerError(
                f"{text!r} is no batch id: it is topic:partition:from-until, as `streamapp batches` prints it"
            )
        begin, end = int(found["begin"]), int(found["end"])
        return cls(found["topic"], int(found["partition"]), begin, end)

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.begin}-{self.end}"


class Before(NamedTuple):
    """A batch's entry, and what the ledger says of the time before it.

    Attributes:
        watermark: of the task, as its batches found it.
        changes: how many changelog records its task had written by then; `None` when the ledger
            does not reach back to the task's first checkpoint.
    """

    entry: LedgerEntry
    watermark: int | None
    changes: int | None


async def find(reader: LedgerReader, topology: Topology, batch: BatchId) -> Before | None:
    """Return a batch's entry, the latest if there are several; `None` when it is not kept (any more)."""
    tp = TopicPartition(topology.ledger_topic, batch.partition)
    if tp not in await reader.partitions(topology.ledger_topic):
        return None
    begins, ends = await reader.begins([tp]), await reader.ends([tp])
    found: Before | None = None
    watermark: int | None = None
    changes: int | None = 0
    last = 0
    async for _, entry in reader.entries({tp: (begins[tp], ends[tp])}):
        if entry.sequence != last + 1 or entry.begins_anew:
            changes = None
        last = entry.sequence
        if any(batch_id(part) == str(batch) for part in entry.batches):
            found = Before(entry, watermark, changes)
        if entry.kind == "checkpoint":
            watermark = entry.watermark
            changes = None if changes is None else changes + entry.changes
        elif entry.begins_anew:
            watermark = None
    return found
