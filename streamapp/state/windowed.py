"""The live side of a windowed table, in one task: panes, the closing of windows, and expiry.

A pane is stored under keys that begin with its start, big-endian and with the sign flipped so that
bytes sort as times do. Closing a window scans the prefixes of its panes, and an expired pane goes
as one range, with a tombstone a key in the changelog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from streamapp.errors import TableError
from streamapp.state.aggregates import Aggregate
from streamapp.state.codecs import Codec, decode_stored
from streamapp.state.store import Store, TableWrites, prefix_of
from streamapp.state.windows import Window, WindowSpec

__all__ = ["WindowResult", "WindowedState", "pane_key", "parse_pane_key"]

#: Accumulators of this many keys and panes stay decoded between checkpoints.
CACHED_KEYS = 200_000

_SIGN = 1 << 63


def pane_key(start: int, key: bytes = b"") -> bytes:
    """Return the stored key of a pane, or of a key in it."""
    return (start + _SIGN).to_bytes(8, "big") + key


def parse_pane_key(stored: bytes) -> tuple[int, bytes]:
    """Return the pane's start and the encoded key of a stored key (without the table's prefix)."""
    return int.from_bytes(stored[:8], "big") - _SIGN, stored[8:]


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The value of one key in one window; `final` when the window is closed."""

    key: Any
    window: Window
    value: Any
    final: bool


class WindowedState:
    """One windowed table of one task.

    `closed_until` is the watermark up to which windows are closed: it is part of the marker, so
    that a window is closed once, also after a restore.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        key: Codec,
        aggregate: Aggregate,
        accumulator: Codec,
        spec: WindowSpec,
    ) -> None:
        self.name = name
        self.spec = spec
        self._store = store
        self._key = key
        self._aggregate = aggregate
        self._accumulator = accumulator
        self._prefix = prefix_of(name)
        self._pane = spec.pane
        self._additive = aggregate.additive
        #: Panes that the store holds.
        self._live: set[int] = set()
        #: Decoded accumulators of committed panes; all of a pane's keys when it is in `_complete`.
        self._clean: dict[int, dict[Any, Any]] = {}
        self._complete: set[int] = set()
        self._dirty: dict[int, dict[Any, Any]] = {}
        self._expiring: list[int] = []
        self._closed_until: int | None = None
        self._closing_until: int | None = None
        self._open_from: int | None = None
        #: Additions after the last of their windows was closed, since the last checkpoint.
        self.late = 0

    # ------------------------------------------------------------------ where it stands

    def restored(self, closed_until: int | None) -> None:
        """Take up the state that the store holds, at the marker's emission position."""
        self._live = set(self._stored_panes())
        self._clean.clear()
        self._complete.clear()
        self._dirty.clear()
        self._expiring.clear()
        self._closed_until = self._closing_until = closed_until
        self._set_open_from(closed_until)
        self.late = 0

    def _stored_panes(self) -> Iterator[int]:
        end = self._prefix[:-1] + b"\x01"
        found = self._store.first(self._prefix, end)
        while found is not None:
            start, _ = parse_pane_key(found[len(self._prefix) :])
            yield start
            found = self._store.first(self._prefix + pane_key(start + 1), end)

    @property
    def closed_until(self) -> int | None:
        """The watermark up to which windows are closed, with this batch."""
        return self._closing_until

    def _set_open_from(self, watermark: int | None) -> None:
        self._open_from = None if watermark is None else self.spec.first_open(watermark)

    # ------------------------------------------------------------------ writing

    def _overlay(self, start: int) -> dict[Any, Any] | None:
        """Return what this batch wrote to a pane, or `None` when its last window is closed."""
        if self._open_from is not None and start < self._open_from:
            return None
        return self._dirty.setdefault(start, {})

    def add(self, key: Any, value: Any, time: int) -> bool:
        """Add a value to a key at an event time; return whether a window was still open for it."""
        start = time - time % self._pane
        accumulators = self._dirty.get(start)
        if accumulators is None:
            accumulators = self._overlay(start)
            if accumulators is None:
                self.late += 1
                return False
        accumulator = accumulators.get(key)
        if accumulator is None:
            accumulator = self._committed(start, key)
            if accumulator is None:
                accumulator = self._aggregate.zero()
        accumulators[key] = (
            accumulator + value if self._additive else self._aggregate.add(accumulator, value)
        )
        return True

    def merge(self, key: Any, partial: Any, time: int) -> bool:
        """Merge an accumulator, made elsewhere by the same aggregation, into the pane of a time."""
        start = time - time % self._pane
        accumulators = self._overlay(start)
        if accumulators is None:
            self.late += 1
            return False
        accumulator = accumulators.get(key)
        if accumulator is None:
            accumulator = self._committed(start, key)
        accumulators[key] = (
            partial if accumulator is None else self._aggregate.merge(accumulator, partial)
        )
        return True

    def add_each(self, keys: Iterable[Any], times: list[int]) -> int:
        """Add 1 to each key at the time beside it, for additive aggregations; return how many were late.

        It counts first and touches each key of the batch once.

        Raises:
            TableError: the aggregation is not additive.
            ValueError: there are more keys than times, or fewer; nothing was added.
        """
        if not self._additive:
            raise TableError(
                f"{self.name}.add_each counts, which {type(self._aggregate).__name__} does not: "
                f"use {self.name}[key] += value"
            )
        pane = self._pane
        lowest, highest = min(times, default=0), max(times, default=0)
        groups: dict[int, Counter[Any]]
        if lowest - lowest % pane == highest - highest % pane:
            counted = Counter(keys)
            if counted.total() != len(times):
                raise ValueError(f"{counted.total()} keys for {len(times)} records")
            groups = {lowest - lowest % pane: counted} if counted else {}
        else:
            by_pane: dict[int, list[Any]] = {}
            start = end = lowest
            for key, time in zip(keys, times, strict=True):
                if not start <= time < end:
                    start = time - time % pane
                    end = start + pane
                    append = by_pane.setdefault(start, []).append
                append(key)
            groups = {start: Counter(found) for start, found in by_pane.items()}
        late = 0
        for start, counts in groups.items():
            accumulators = self._overlay(start)
            if accumulators is None:
                late += counts.total()
                continue
            for key, count in counts.items():
                accumulator = accumulators.get(key)
                if accumulator is None:
                    accumulator = self._committed(start, key)
                accumulators[key] = count if accumulator is None else accumulator + count
        self.late += late
        return late

    # ------------------------------------------------------------------ reading

    def _committed(self, start: int, key: Any) -> Any:
        clean = self._clean.get(start)
        if clean is not None:
            found = clean.get(key)
            if found is not None:
                return found
        if start not in self._live or start in self._complete:
            return None
        raw = self._store.get(self._prefix + pane_key(start, self._key.encode(key)))
        return None if raw is None else decode_stored(self._accumulator, raw, self.name, key)

    def _at(self, start: int, key: Any) -> Any:
        dirty = self._dirty.get(start)
        if dirty is not None:
            found = dirty.get(key)
            if found is not None:
                return found
        return self._committed(start, key)

    def _panes(self, window: Window) -> range:
        """Return the panes to read for a window: none once it is expired, since some are gone."""
        closed = self._closed_until
        if closed is not None and window.end + self.spec.keep <= closed:
            return range(0)
        return self.spec.panes(window)

    def value(self, key: Any, window: Window) -> Any:
        """Return the aggregation's result for a key in a window, with what this batch wrote."""
        merged = None
        for start in self._panes(window):
            part = self._at(start, key)
            if part is not None:
                merged = part if merged is None else self._aggregate.merge(merged, part)
        return self._aggregate.result(self._aggregate.zero() if merged is None else merged)

    def _pane_items(self, start: int) -> dict[Any, Any]:
        """Return all accumulators of a pane, with what this batch wrote."""
        if start not in self._complete and start in self._live:
            prefix = self._prefix + pane_key(start)
            cut = len(prefix)
            self._clean[start] = {
                key: decode_stored(self._accumulator, raw, self.name, key)
                for stored, raw in self._store.scan(prefix, self._prefix + pane_key(start + 1))
                for key in [self._key.decode(stored[cut:])]
            }
            self._complete.add(start)
        clean = self._clean.get(start, {})
        dirty = self._dirty.get(start)
        return {**clean, **dirty} if dirty else clean

    def window_items(self, window: Window) -> dict[Any, Any]:
        """Return the results of all keys in a window."""
        merged: dict[Any, Any] = {}
        for start in self._panes(window):
            if start in self._live or start in self._dirty:
                for key, part in self._pane_items(start).items():
                    found = merged.get(key)
                    merged[key] = part if found is None else self._aggregate.merge(found, part)
        return {key: self._aggregate.result(part) for key, part in merged.items()}

    def windows(self) -> list[Window]:
        """Return the windows that hold something and are not expired, oldest first."""
        closed = self._closed_until
        return self._ending(None if closed is None else closed - self.spec.keep, None)

    def _ending(self, after: int | None, until: int | None) -> list[Window]:
        """Return the windows that hold something and end in `(after, until]`, oldest first."""
        spec = self.spec
        ends = {end for pane in self._open_panes(after) for end in spec.ends(pane, after, until)}
        return [Window(end - spec.size, end) for end in sorted(ends)]

    def _open_panes(self, after: int | None) -> Iterable[int]:
        """Return the panes that hold something and of which a window ends after a time."""
        panes = self._live | self._dirty.keys()
        if after is None:
            return panes
        first = self.spec.first_open(after)
        return [pane for pane in panes if pane >= first]

    # ------------------------------------------------------------------ at a checkpoint

    def updated(self) -> Iterator[WindowResult]:
        """Yield the windows that this batch changed and that are still open, with their values."""
        touched: dict[Window, dict[Any, None]] = {}
        for start, accumulators in self._dirty.items():
            for window in self.spec.windows(start):
                if self._closing_until is None or window.end > self._closing_until:
                    touched.setdefault(window, {}).update(dict.fromkeys(accumulators))
        for window in sorted(touched):
            for key in touched[window]:
                yield WindowResult(key, window, self.value(key, window), final=False)

    def close(self, watermark: int | None) -> list[Window]:
        """Close the windows that end at or before the watermark; return those that hold something.

        Call it once a checkpoint, after the agents: what is added between it and `commit` is not
        in the values that `window_items` returns for them.
        """
        before = self._closed_until
        if watermark is None or (before is not None and watermark <= before):
            return []
        spec = self.spec
        closing = self._ending(before, watermark)
        self._closing_until = watermark
        self._set_open_from(watermark)
        kept_from = spec.first_open(watermark - spec.keep)
        self._expiring = [pane for pane in self._live | self._dirty.keys() if pane < kept_from]
        return closing

    def next_close(self) -> int | None:
        """Return the end of the next window that holds something: what a watermark has to reach."""
        after = self._closing_until
        ends = (self.spec.ends(pane, after)[0] for pane in self._open_panes(after))
        return min(ends, default=None)

    def changes(self) -> TableWrites:
        """Return the overlay and what expires, encoded.

        Raises:
            TableError: a key or accumulator that its codec does not take.
        """
        writes = TableWrites(self.name)
        expiring = set(self._expiring)
        encode_key, encode, put = self._key.encode, self._accumulator.encode, writes.puts.append
        key: Any = None
        try:
            for start, accumulators in self._dirty.items():
                if start not in expiring:
                    head = pane_key(start)
                    for key, value in accumulators.items():
                        put((head + encode_key(key), encode(value)))
        except Exception as error:
            raise TableError(f"{self.name}[{key!r}] cannot be stored: {error}") from error
        for start in self._expiring:
            if start in self._live:
                first, end = pane_key(start), pane_key(start + 1)
                cut = len(self._prefix)
                writes.deletes.extend(
                    stored[cut:]
                    for stored, _ in self._store.scan(self._prefix + first, self._prefix + end)
                )
                writes.ranges.append((first, end))
        return writes

    def commit(self) -> None:
        """The overlay is in the store now."""
        for start, accumulators in self._dirty.items():
            if start not in self._live:
                self._live.add(start)
                self._complete.add(start)
            self._clean.setdefault(start, {}).update(accumulators)
        self._dirty = {}
        for start in self._expiring:
            self._live.discard(start)
            self._clean.pop(start, None)
            self._complete.discard(start)
        self._expiring = []
        self._closed_until = self._closing_until
        self.late = 0
        self._shrink()

    def _shrink(self) -> None:
        cached = sum(map(len, self._clean.values()))
        for start in sorted(self._clean):
            if cached <= CACHED_KEYS:
                break
            cached -= len(self._clean.pop(start))
            self._complete.discard(start)

    def rollback(self) -> None:
        """Forget everything that is not committed."""
        self._dirty = {}
        self._expiring = []
        self._clean.clear()
        self._complete.clear()
        self._closing_until = self._closed_until
        self._set_open_from(self._closed_until)
        self.late = 0
