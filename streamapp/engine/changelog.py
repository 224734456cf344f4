"""What records of a changelog do to a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamapp.state.store import TableWrites

__all__ = ["table_writes"]


def table_writes(table: str, records: Iterable[Any]) -> TableWrites:
    """Return what records amount to, in their order: the last value of each key, or its deletion."""
    writes = TableWrites(table)
    # Within a write batch the last operation on a key counts.
    latest = {record.key: record.value for record in records}
    for key, value in latest.items():
        if value is None:
            writes.deletes.append(key)
        else:
            writes.puts.append((key, value))
    return writes
