"""From changelog records to a store: what a restore and a standby do with what they have fetched.

A fetch is brought down to the last value of each key, and written in batches of about a megabyte:
RocksDB's write holds the interpreter (rocksdict 0.3.29), in a thread too, so a batch is as long as
the event loop waits. The position moves when a fetch is written. A store that was left before that
gets the whole fetch again, and holds the same after it.

What a store says of its age is when it last held all that there was, not when it was last written:
on its way it has not seen the deletes that it is still to read, and they are kept only for a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamapp.engine.marker import Marker, Progress, encode
from streamapp.faults import fault_point
from streamapp.state.store import Store, TableWrites

__all__ = ["Replay", "wait_for_room"]

#: How large a write batch becomes: some 25 ms.
_MOST_KEYS = 10_000
_MOST_BYTES = 1 << 20
#: How long to leave RocksDB to its flushes, in seconds, before it is asked again.
_STALLED = 0.005
#: For how long one fetch, or one checkpoint, is held back for them, in seconds. A compaction that has failed, on a full
#: disk say, never goes on by itself, and it is the next write that says so.
_PATIENCE = 5.0


def _patience() -> float:
    return asyncio.get_running_loop().time() + _PATIENCE


async def wait_for_room(store: Store, until: float | None = None) -> None:
    """Wait while a write to a store would wait, and the whole interpreter with it, for some seconds at most.

    Arguments:
        until: by the event loop's clock.
    """
    until = _patience() if until is None else until
    now = asyncio.get_running_loop().time
    # RocksDB tells nobody when it goes on.
    while store.stalled and now() < until:  # noqa: ASYNC110
        await asyncio.sleep(_STALLED)


class Replay:
    """Writes changelog records to the store of one task.

    Arguments:
        positions: the next offset of each table's changelog; they move as records are written.
        current_at: when the store last held all that there was, in milliseconds since the epoch; of
            an empty one, when its first record was still to be read.
    """

    def __init__(self, store: Store, positions: dict[str, int], current_at: int) -> None:
        self.positions = positions
        self.current_at = current_at
        #: Changelog records applied, and the bytes of keys and values that they left in the store.
        self.records = 0
        self.bytes = 0
        self._store = store

    async def apply(
        self,
        fetched: Mapping[str, Sequence[Any]],
        until: Mapping[str, int],
        marker: Marker,
        current_at: int | None = None,
    ) -> None:
        """Write what was fetched, and then where it ends.

        Arguments:
            fetched: records by table, in the order of their offsets.
            until: the consumer's position in each table's changelog, behind control records too.
            marker: the checkpoint that the store is on its way to.
            current_at: as for `finish`.
        """
        patience = _patience()
        for table, records in fetched.items():
            for writes, size in self._batches(table, records):
                await wait_for_room(self._store, patience)
                self._store.write([writes], None)
                self.bytes += size
                fault_point("restore.written")
                await asyncio.sleep(0)
            self.records += len(records)
        self.positions.update(until)
        self.finish(marker, current_at)

    def finish(self, marker: Marker, current_at: int | None = None) -> None:
        """Write where the store stands.

        Arguments:
            current_at: when this was all that there was, in milliseconds; `None` while it is not.
        """
        if current_at is not None:
            self.current_at = current_at
        progress = Progress(marker=marker, positions=self.positions, at=self.current_at)
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
