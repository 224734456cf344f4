"""The state of a task as a batch of the past found it, from changelogs that are compacted.

A changelog keeps the last value of each key for sure. What a key held before a batch is there if
nothing was written to it since, or as long as compaction has not come by. So a key is *unsure* when
the changelog has it only from the batch on: either it was new then, or what it held is gone. No key
is unsure when the ledger reaches back to the first checkpoint and every record that it counts is
still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from aiokafka import TopicPartition

from streamapp.engine.topology import Topology
from streamapp.ledger.reading import LedgerReader
from streamapp.state.store import Store, StoreMemory, TableWrites, prefix_of

__all__ = ["PastState", "WatchedStore", "rebuild"]


class WatchedStore(Store):
    """A store that remembers what was read of it, once `watch` is called."""

    def __init__(self, path: Path, owner: str, memory: StoreMemory) -> None:
        self._keys: set[bytes] = set()
        self._ranges: list[tuple[bytes, bytes]] = []
        self._watching = False
        super().__init__(path, owner, memory)

    def watch(self) -> None:
        """Remember from here on."""
        self._watching = True

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a full key."""
        if self._watching:
            self._keys.add(key)
        return super().get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the pairs in `[start, end)` of full keys."""
        if self._watching:
            self._ranges.append((start, end))
        return super().scan(start, end)

    def was_read(self, key: bytes) -> bool:
        """Whether a full key was looked at, also in vain."""
        return key in self._keys or any(start <= key < end for start, end in self._ranges)


class PastState(NamedTuple):
    """What was rebuilt: how many records it took, and the full keys that are unsure."""

    records: int
    unsure: frozenset[bytes]


async def rebuild(
    reader: LedgerReader,
    topology: Topology,
    partition: int,
    positions: Mapping[str, int],
    changes: int | None,
    store: Store,
) -> PastState:
    """Fill a store from the changelogs of a task.

    Arguments:
        positions: where each table's changelog ended then; a table that is not in it was declared later.
        changes: how many records the changelogs had by then, if that is known.
    """
    tables = {
        TopicPartition(topology.changelog(table.name), partition): table.name
        for table in topology.tables
        if table.name in positions
    }
    there = set(await reader.partitions(*(tp.topic for tp in tables)))
    logs = [tp for tp in tables if tp in there]
    begins, ends = await reader.begins(logs), await reader.stable_ends(logs)
    records = 0
    deleted: set[bytes] = set()
    then = {tp: (begins[tp], min(ends[tp], positions[tables[tp]])) for tp in logs}
    async for tp, found in reader.records(then):
        writes = TableWrites(tables[tp])
        prefix = prefix_of(tables[tp])
        for key, value in {record.key: record.value for record in found}.items():
            if value is None:
                writes.deletes.append(key)
                deleted.add(prefix + key)
            else:
                writes.puts.append((key, value))
        records += len(found)
        store.write([writes], None)
    if records == changes:
        return PastState(records, frozenset())
    unsure: set[bytes] = set()
    async for tp, found in reader.records({tp: (then[tp][1], ends[tp]) for tp in logs}):
        prefix = prefix_of(tables[tp])
        for record in found:
            key = prefix + record.key
            if key not in unsure and key not in deleted and store.get(key) is None:
                unsure.add(key)
    return PastState(records, frozenset(unsure))
