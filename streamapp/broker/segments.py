"""Where the bytes of a partition's batches are kept, when they are kept in memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

#: A batch in memory is its bytes; a batch in a file is where it is.
Place = object


class Store(Protocol):
    """Keeps the batches of one partition, in order."""

    def append(self, data: bytes, base_offset: int) -> Place:
        """Keep a batch; once this returns, a killed process does not lose it."""

    def read(self, places: Sequence[Place]) -> bytes:
        """The bytes of these batches, which follow each other, joined."""

    def replace(self, batches: Sequence[tuple[int, bytes]], until: int) -> list[Place]:
        """Keep these batches (base offset, bytes) in place of all below `until`, atomically."""

    def roll(self) -> None:
        """Let the next batch begin a new file, so that those before it can be deleted."""

    def drop_before(self, offset: int) -> None:
        """Free what holds nothing but batches below `offset`."""

    def flush(self) -> None:
        """Make what was appended survive a power cut."""

    def close(self) -> None:
        """Let go of the files."""

    def delete(self) -> None:
        """Let go of the files and remove them."""


class MemoryStore:
    """Batches in memory: the log's own list of places keeps them alive."""

    __slots__ = ()

    def append(self, data: bytes, base_offset: int) -> Place:
        return data

    def read(self, places: Sequence[Place]) -> bytes:
        if len(places) == 1:
            return places[0]  # type: ignore[return-value]
        return b"".join(places)  # type: ignore[arg-type]

    def replace(self, batches: Sequence[tuple[int, bytes]], until: int) -> list[Place]:
        return [data for _, data in batches]

    def roll(self) -> None: ...

    def drop_before(self, offset: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def delete(self) -> None: ...
