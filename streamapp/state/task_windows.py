"""The live side of a windowed table at the record at hand, and the value that `table[key]` is."""

from __future__ import annotations

from copy import copy
from datetime import timedelta
from typing import Any, Self

import msgspec

from streamapp.errors import TableError
from streamapp.state.aggregates import Aggregate
from streamapp.state.codecs import Codec
from streamapp.state.cursor import Cursor
from streamapp.state.ended import Ended
from streamapp.state.store import Store
from streamapp.state.time import to_milliseconds
from streamapp.state.windowed import WindowedState
from streamapp.state.windows import WindowSpec, milliseconds

__all__ = ["PaneValue", "TaskWindows"]


class TaskWindows(WindowedState):
    """A windowed table's live side, tied to the record at hand."""

    def __init__(
        self,
        name: str,
        store: Store,
        key: Codec,
        aggregate: Aggregate,
        accumulator: Codec,
        spec: WindowSpec,
        cursor: Cursor,
    ) -> None:
        super().__init__(name, store, key, aggregate, accumulator, spec)
        self._cursor = cursor
        #: Indexes, in the batch at hand, of records that came too late.
        self.late_records: list[int] = []

    def now(self) -> int:
        """Return the event time of the record at hand.

        Raises:
            TableError: there is no record at hand.
        """
        time = self._cursor.time()
        if time is None:
            raise TableError(
                f"there is no record at hand: {self.name}.add(key, value, at=time) says when it was"
            )
        return time

    def add_at(self, key: Any, value: Any, time: int) -> None:
        """Add, and remember a record that came too late."""
        if not self.add(key, value, time):
            self.remember_late()

    def merge_at(self, key: Any, partial: Any, time: int) -> None:
        """Merge, and remember a record that came too late."""
        if not self.merge(key, partial, time):
            self.remember_late()

    def add_batch(self, keys: Any) -> None:
        """Count the keys of the batch at hand, and remember the records that came too late."""
        times = self._cursor.times
        if not times and (keys := list(keys)):
            self.now()
        if self.add_each(keys, times) and self._open_from is not None:
            pane, open_from = self._pane, self._open_from
            self.late_records.extend(
                i for i, time in enumerate(times) if time - time % pane < open_from
            )

    def remember_late(self) -> None:
        """Remember the record at hand, once, however many keys it was added to."""
        index = self._cursor.index
        if index >= 0 and (not self.late_records or self.late_records[-1] != index):
            self.late_records.append(index)

    def follow(self, cursor: Cursor) -> None:
        """Take another cursor's record for the one at hand."""
        self._cursor = cursor

    def succeeded(self) -> Self:
        """Return the live side that goes on from here; this one is of a batch that is over."""
        successor = copy(self)
        ended: Any = Ended(f"the table {self.name!r}")
        self._cursor = self._dirty = self._clean = self._live = ended
        return successor

    def restored(self, closed_until: int | None) -> None:
        """Take up the state that the store holds; no record is late yet."""
        super().restored(closed_until)
        self.late_records = []

    def commit(self) -> None:
        """The overlay is in the store now; the batch's late records are done with."""
        super().commit()
        self.late_records = []

    def rollback(self) -> None:
        """Forget everything that is not committed, late records too."""
        super().rollback()
        self.late_records = []


class PaneValue(msgspec.Struct, eq=False, gc=False):
    """What `table[key]` is in a windowed table: a key at the event time of the record at hand.

    One is made for each record, so it is of the cheapest kind to make.
    """

    _state: TaskWindows
    _key: Any

    def __iadd__(self, value: Any) -> PaneValue:
        state = self._state
        cursor = state._cursor
        index = cursor.index
        if index < 0:
            state.now()
        if not state.add(self._key, value, cursor.times[index]):
            state.remember_late()
        return self

    def add(self, value: Any) -> None:
        """Add a value in the aggregation's sense."""
        self._state.add_at(self._key, value, self._state.now())

    def merge(self, partial: Any) -> None:
        """Merge an accumulator of the same aggregation."""
        self._state.merge_at(self._key, partial, self._state.now())

    def current(self) -> Any:
        """Return the value of the newest window that holds the record at hand."""
        return self.at(self._state.now())

    def delta(self, seconds: float | timedelta) -> Any:
        """Return the value of the newest window that holds the time so long before the record."""
        return self.at(self._state.now() - milliseconds(seconds))

    def at(self, time: Any) -> Any:
        """Return the value of the newest window that holds an event time."""
        state = self._state
        return state.value(self._key, state.spec.newest(to_milliseconds(time)))
