"""Which batch an outside system has, and whether the one at hand is new to it.

A partition's ranges follow each other, so the last one is all that there is to remember: one row a
partition. The table is the same in every database.
"""

from __future__ import annotations

from typing import NamedTuple

from streamapp.engine.batch import Batch
from streamapp.errors import SinkError

__all__ = ["Latest"]


class Latest(NamedTuple):
    """The range of offsets that an outside system took last from a partition."""

    from_offset: int
    until_offset: int

    def has(self, batch: Batch) -> bool:
        """Whether a batch is the one that was taken last.

        Raises:
            SinkError: it is neither that one nor one that comes after it.
        """
        if (batch.from_offset, batch.until_offset) == self:
            return True
        if batch.from_offset >= self.until_offset:
            return False
        raise SinkError(
            f"{batch.id} comes after {batch.topic}:{batch.partition}:{self.from_offset}-{self.until_offset}, which "
            "the database has: another worker went on with the partition (then this one notices by itself), or the "
            "topic or the foreach_batch began anew, or it does not run under exactly_once. To write it all the same, "
            "delete the row of this topic and partition from streamapp_batches"
        )


#: One row a partition of each foreach_batch.
CREATE = """
    CREATE TABLE IF NOT EXISTS streamapp_batches (
        name TEXT NOT NULL,
        topic TEXT NOT NULL,
        "partition" INTEGER NOT NULL,
        from_offset BIGINT NOT NULL,
        until_offset BIGINT NOT NULL,
        PRIMARY KEY (name, topic, "partition")
    )
"""
