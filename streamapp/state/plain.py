"""The live side of a table without windows, in one task: what is committed, and the overlay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Self

from streamapp.errors import TableError
from streamapp.state.codecs import Codec, decode_stored
from streamapp.state.ended import Ended
from streamapp.state.store import Store, TableWrites, prefix_of

__all__ = ["PlainState"]

#: Values of this many keys stay decoded between checkpoints.
CACHED_KEYS = 50_000


class _Deleted:
    def __repr__(self) -> str:
        return "<deleted>"


_DELETED = _Deleted()


class PlainState:
    """One table of one task. Uncommitted writes live in an overlay until `commit`.

    Values are handed out as they are: one that is changed in place must be assigned again to be
    stored, as in a shelf.
    """

    def __init__(
        self, name: str, store: Store, key: Codec, value: Codec, default: Callable[[], Any] | None
    ) -> None:
        self.name = name
        self._store = store
        self._key = key
        self._value = value
        self._default = default
        self._prefix = prefix_of(name)
        self._values: Any = {}
        self._dirty: Any = set()

    def __getitem__(self, key: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            value = self._load(key)
        if value is _DELETED:
            if self._default is None:
                raise KeyError(key)
            return self._default()
        return value

    def _load(self, key: Any) -> Any:
        if key in self._values:
            return self._values[key]
        raw = self._store.get(self._prefix + self._key.encode(key))
        value = _DELETED if raw is None else decode_stored(self._value, raw, self.name, key)
        self._values[key] = value
        return value

    def __contains__(self, key: Any) -> bool:
        return self._load(key) is not _DELETED

    def get(self, key: Any, default: Any) -> Any:
        """Return a key's value, or `default` when there is none."""
        value = self._load(key)
        return default if value is _DELETED else value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[key] = value
        self._dirty.add(key)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._values[key] = _DELETED
        self._dirty.add(key)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values, committed and not, in no particular order."""
        dirty = {key: self._values[key] for key in self._dirty}
        for raw_key, raw in self._store.scan(self._prefix, self._prefix[:-1] + b"\x01"):
            key = self._key.decode(raw_key[len(self._prefix) :])
            if key not in dirty:
                yield key, decode_stored(self._value, raw, self.name, key)
        for key, value in dirty.items():
            if value is not _DELETED:
                yield key, value

    def changes(self) -> TableWrites:
        """Return the overlay, encoded: the last value of each key that was written.

        Raises:
            TableError: a key or value that its codec does not take.
        """
        writes = TableWrites(self.name)
        encode_key, encode = self._key.encode, self._value.encode
        key: Any = None
        try:
            for key in self._dirty:
                value = self._values[key]
                if value is _DELETED:
                    writes.deletes.append(encode_key(key))
                else:
                    writes.puts.append((encode_key(key), encode(value)))
        except Exception as error:
            raise TableError(f"{self.name}[{key!r}] cannot be stored: {error}") from error
        return writes

    def succeeded(self) -> Self:
        """Return the live side that goes on from here; this one is of a batch that is over."""
        successor = copy(self)
        self._values = self._dirty = Ended(f"the table {self.name!r}")
        return successor

    def commit(self) -> None:
        """The overlay is in the store now."""
        self._dirty.clear()
        if len(self._values) > CACHED_KEYS:
            self._values.clear()

    def rollback(self) -> None:
        """Forget everything that is not committed."""
        self._dirty.clear()
        self._values.clear()
