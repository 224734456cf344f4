"""A store on trial: what the task wrote, and what its changelog alone would make of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from streamapp.state.store import Store, StoreMemory, TableWrites, prefix_of

__all__ = ["ReplicatedStore", "contents"]

MEMORY = StoreMemory(16 << 20)


def contents(store: Store, table: str) -> dict[bytes, bytes]:
    """All that a store holds of a table, by keys without the table's prefix."""
    prefix = prefix_of(table)
    return {
        key[len(prefix) :]: value
        for key, value in store.scan(prefix, prefix[:-1] + b"\x01")
        if key.startswith(prefix)
    }


class ReplicatedStore:
    """A store that can be reopened, beside a dict that sees what a changelog would: no ranges."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="streamapp-test-"))
        self.store = self._open()
        self.changelog: dict[bytes, bytes] = {}

    def _open(self) -> Store:
        return Store(self.directory / "store", "app/topology/0", MEMORY)

    def write(self, writes: TableWrites) -> None:
        """Bring a checkpoint to the store and to the changelog."""
        self.store.write([writes], b"progress")
        for key in writes.deletes:
            self.changelog.pop(key, None)
        self.changelog.update(writes.puts)

    def reopen(self) -> Store:
        """Close the store and open it again, as the next owner does."""
        self.store.close()
        self.store = self._open()
        return self.store

    def rebuilt(self, table: str) -> dict[bytes, bytes]:
        """What a store of its own holds that was restored from the changelog."""
        store = Store(self.directory / "rebuilt", "app/topology/0", MEMORY)
        store.write([TableWrites(table, puts=list(self.changelog.items()))], None)
        found = contents(store, table)
        store.close()
        Store.remove(self.directory / "rebuilt")
        return found

    def remove(self) -> None:
        """Close and delete it."""
        self.store.close()
        shutil.rmtree(self.directory)
