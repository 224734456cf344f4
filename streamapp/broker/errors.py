"""What can go wrong in the broker: answers to a client, and reasons not to start or go on."""

from __future__ import annotations

from pathlib import Path

from kio.schema.errors import ErrorCode

__all__ = [
    "BrokerError",
    "DataDirectoryLocked",
    "ErrorCode",
    "JournalCorrupt",
    "Malformed",
    "Refused",
]


class BrokerError(Exception):
    """The broker cannot start, or cannot go on."""


class DataDirectoryLocked(BrokerError):
    """Another broker has this data directory open."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory} is in use by another broker; stop that one, or choose another --data"
        )


class JournalCorrupt(BrokerError):
    """A file holds bytes that were never written by an append: it was damaged, not torn.

    A tail torn by a crash is cut silently; this is raised for everything else, because to guess
    would be to lose acknowledged records without a word.
    """

    def __init__(self, path: Path, position: int, reason: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {position}: {reason}; restore the file from a copy, or "
            f"move the data directory away to start empty"
        )
        self.path = path
        self.position = position


class Malformed(BrokerError):
    """A request that cannot be read; its connection is closed."""


class Refused(Exception):
    """A request, or one item of it, that is answered with an error code."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.code = code
        self.message = message
