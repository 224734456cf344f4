"""From changelog records to a store: what a restore and a standby do with what they have fetched.

A fetch is brought down to the last value of each key, and written in batches of about a megabyte:
RocksDB's write holds the interpreter (rocksdict 0.3.29), in a thread too, so a batch is as long as
the event loop waits. The position moves when a fetch is written. A store that was left before that
gets the whole fetch again, and holds the same after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from streamapp.engine.marker import Marker, Progress, encode
from streamapp.faults import fault_point
from streamapp.state.store import Store, TableWrites

__all__ = ["Replay"]

#: How large a write batch becomes: some 25 ms.
_MOST_KEYS = 10_000
_MOST_BYTES = 1 << 20
#: How long to leave RocksDB to its flushes, in seconds, before it is asked again.
_STALLED = 0.005


class Replay:
    """Writes changelog records to the store of one task.

    Arguments:
        positions: the next offset of each table's changelog; they move as records are written.
        clock: milliseconds since the epoch.
    """

    def __init__(self, store: Store, positions: dict[str, int], clock: Callable[[], int]) -> None:
        self.positions = positions
        #: Changelog records applied, and the bytes of keys and values that they left in the store.
        self.records = 0
        self.bytes = 0
        self._store = store
        self._clock = clock

    async def apply(
        self, fetched: Mapping[str, Sequence[Any]], until: Mapping[str, int], marker: Marker
    ) -> None:
        """Write what was fetched, and then where it ends.

        Arguments:
            fetched: records by table, in the order of their offsets.
            until: the consumer's position in each table's changelog, behind control records too.
            marker: the checkpoint that the store is on its way to.
        """
        for table, records in fetched.items():
            for writes, size in self._batches(table, records):
                while self._store.stalled:  # noqa: ASYNC110  (RocksDB tells nobody when it goes on)
                    await asyncio.sleep(_STALLED)
                self._store.write([writes], None)
                self.bytes += size
                fault_point("restore.written")
                await asyncio.sleep(0)
            self.records += len(records)
        self.positions.update(until)
        self.finish(marker)

    def finish(self, marker: Marker) -> None:
        """Write where the store stands."""
        progress = Progress(marker=marker, positions=self.positions, at=self._clock())
        self._store.write([], encode(progress))

    @staticmethod
    def _batches(table: str, records: Sequence[Any]) -> Iterator[tuple[TableWrites, int]]:
        latest = {record.key: record.value for record in records}
        writes, size = TableWrites(table), 0
        for key, value in latest.items():
            if value is None:
                writes.deletes.append(key)
                size += len(key)
            else:
                writes.puts.append((key, value))
                size += len(key) + len(value)
            if size >= _MOST_BYTES or len(writes.puts) + len(writes.deletes) >= _MOST_KEYS:
                yield writes, size
                writes, size = TableWrites(table), 0
        if not writes.empty:
            yield writes, size
