"""How a damaged RocksDB shows, and how one that does not show is found."""

from __future__ import annotations

import re
import struct
from pathlib import Path

__all__ = ["first_logged", "is_damage", "is_full", "is_held", "last_flushed"]

#: A record of a write-ahead log: checksum, length, type (1 is whole, 2 the first part of one), and
#: in it the sequence number of the first write (RocksDB, db/log_format.h and db/write_batch.cc).
_LOG_RECORD = struct.Struct("<IHBQ")
_BEGINS_A_BATCH = (1, 2)
_LAST_SEQUENCE = re.compile(rb"last_sequence is (\d+)")


def is_damage(message: str) -> bool:
    """Whether an error of RocksDB says that what is on the disk is not what was written.

    A file that is missing, and one that the disk cannot read, are damage; a full disk is none.
    """
    return message.startswith("Corruption") or any(
        sign in message for sign in ("No such file or directory", "Input/output error")
    )


def is_full(message: str) -> bool:
    """Whether an error of RocksDB, or of the system, says that the disk has no room."""
    return any(
        sign in message
        for sign in ("No space left on device", "Disk quota exceeded", "File too large")
    )


def is_held(message: str) -> bool:
    """Whether an error of RocksDB says that the database is open elsewhere."""
    return "lock file" in message.lower() or "lock hold" in message.lower()


def first_logged(path: Path) -> int | None:
    """Return the sequence number with which the write-ahead logs of a database begin.

    To be asked before it is opened, which replays and deletes them. `None` for logs that hold
    nothing, or nothing that can be told.
    """
    sequences = []
    for log in path.glob("*.log"):
        with log.open("rb") as file:
            head = file.read(_LOG_RECORD.size)
        if len(head) == _LOG_RECORD.size:
            _, _, kind, sequence = _LOG_RECORD.unpack(head)
            if kind in _BEGINS_A_BATCH:
                sequences.append(sequence)
    return min(sequences, default=None)


def last_flushed(path: Path) -> int | None:
    """Return the last sequence number that the manifest knows of, from what RocksDB says of an open.

    A manifest that has lost its end looks like a shorter one, and RocksDB takes it as such: the
    files that it no longer names are deleted, and the logs are replayed over the hole. But the logs
    begin behind what it knows then.
    """
    try:
        with (path / "LOG").open("rb") as file:
            found = _LAST_SEQUENCE.search(file.read(1 << 16))
    except OSError:
        return None
    return None if found is None else int(found[1])
