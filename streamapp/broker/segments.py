"""Where the bytes of a partition's batches are kept: the interface, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

#: What a store finds a batch by: in memory its bytes, in a file its position.
Place = object


class Rewrite(Protocol):
    """Batches that are to take the place of others: all of them at once, or none."""

    def add(self, data: bytes) -> Place:
        """Add the next batch."""

    def commit(self) -> None:
        """Put what was added in the place of what was there."""

    def discard(self) -> None:
        """Leave everything as it was."""


class Store(Protocol):
    """Keeps the batches of one partition, in order."""

    def append(self, data: bytes, base: int, until: int) -> Place:
        """Keep the batch of `[base, until)`; a killed process does not lose it any more."""

    def read(self, places: Sequence[Place]) -> bytes:
        """The bytes of these batches, which follow each other, joined."""

    def boundary(self, limit: int) -> int:
        """The highest offset up to `limit` below which batches can be replaced."""

    def rewrite(self, until: int) -> Rewrite:
        """Begin to replace all batches below `until` (a `boundary`)."""

    def drop_before(self, offset: int) -> None:
        """Free what holds nothing but batches below `offset`."""

    def flush(self) -> None:
        """Have what was appended survive a power cut."""

    def close(self) -> None:
        """Let go of the files."""

    def delete(self) -> None:
        """Let go of the files and remove them."""


class _MemoryRewrite:
    """The log holds the batches; nothing is to be done."""

    __slots__ = ()

    def add(self, data: bytes) -> Place:
        return data

    def commit(self) -> None: ...

    def discard(self) -> None: ...


class MemoryStore:
    """Batches in memory: the log's own list of places keeps them alive."""

    __slots__ = ()

    def append(self, data: bytes, base: int, until: int) -> Place:
        return data

    def read(self, places: Sequence[Place]) -> bytes:
        if len(places) == 1:
            return places[0]  # type: ignore[return-value]
        return b"".join(places)  # type: ignore[arg-type]

    def boundary(self, limit: int) -> int:
        return limit

    def rewrite(self, until: int) -> Rewrite:
        return _MemoryRewrite()

    def drop_before(self, offset: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def delete(self) -> None: ...
