"""Tables as a test sees them: the states of all tasks at once, to read and not to write.

In an agent `table[key]` is the state of the agent's own task. A test has no task, so a view asks
all of them. A key that several tasks hold is an error, not a choice: the records of one key did not
meet, which `key_by` mends; `AppTest.table(table, partition)` reads one task's part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from streamapp.errors import TableError
from streamapp.state.cursor import Cursor
from streamapp.state.plain import PlainState
from streamapp.state.table import Table, TaskWindows, WindowedTable
from streamapp.state.windows import Window, WindowSpec

__all__ = ["PlainView", "WindowedView", "merged", "view_of"]


class _View:
    """What both kinds of view share: the states by partition, as they are at each look."""

    def __init__(self, name: str, states: Callable[[], dict[int, Any]]) -> None:
        self.name = name
        self._states = states

    def _refuse(self) -> NoReturn:
        raise TableError(
            f"a test reads the table {self.name!r} and does not write it: send records, and let an agent do it"
        )


def _one(table: str, key: Any, partitions: Sequence[int]) -> None:
    if len(partitions) > 1:
        raise TableError(
            f"{table}[{key!r}] is in tasks {', '.join(map(str, partitions))}: records of one key did not meet. "
            "Send them on with key_by, or, if each task is to have its own, read one: "
            f"t.table({table}, partition={partitions[0]})"
        )


def merged(table: str, parts: Mapping[int, Mapping[Any, Any]]) -> dict[Any, Any]:
    """Return what the tasks hold, all together.

    Raises:
        TableError: several hold the same key.
    """
    found: dict[Any, Any] = {}
    where: dict[Any, int] = {}
    for partition, items in parts.items():
        for key, value in items.items():
            if key in where:
                _one(table, key, [where[key], partition])
            where[key] = partition
            found[key] = value
    return found


class PlainView(_View):
    """A table without windows: the reading half of `PlainState`."""

    def _holder(self, key: Any) -> PlainState | None:
        states: dict[int, PlainState] = self._states()
        holders = [partition for partition, state in states.items() if key in state]
        _one(self.name, key, holders)
        return states[holders[0]] if holders else None

    def __getitem__(self, key: Any) -> Any:
        holder = self._holder(key)
        if holder is None:
            # Any of them knows the default, or that there is none.
            holder = next(iter(self._states().values()))
        return holder[key]

    def __contains__(self, key: Any) -> bool:
        return self._holder(key) is not None

    def get(self, key: Any, default: Any) -> Any:
        """Return a key's value, or `default` when there is none."""
        holder = self._holder(key)
        return default if holder is None else holder[key]

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values in no particular order."""
        parts = {partition: dict(state.items()) for partition, state in self._states().items()}
        return iter(merged(self.name, parts).items())

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse()

    def __delitem__(self, key: Any) -> None:
        self._refuse()


class WindowedView(_View):
    """A windowed table: the reading half of `TaskWindows`."""

    def __init__(self, name: str, states: Callable[[], dict[int, Any]], spec: WindowSpec) -> None:
        super().__init__(name, states)
        self.spec = spec
        # `table[key] += 1` looks for the record at hand; there is none.
        self._cursor = Cursor()

    def now(self) -> NoReturn:
        """There is no record at hand.

        Raises:
            TableError: always; it says what to call instead.
        """
        raise TableError(
            f"a test has no record at hand: {self.name}.value(key, at=time) reads the newest window of a time, "
            f"{self.name}.windows() and {self.name}.window(w) read all; only agents write"
        )

    def windows(self) -> list[Window]:
        """Return the windows that hold something in any task, oldest first."""
        states: dict[int, TaskWindows] = self._states()
        return sorted({window for state in states.values() for window in state.windows()})

    def window_items(self, window: Window) -> dict[Any, Any]:
        """Return the results of all keys in a window."""
        states: dict[int, TaskWindows] = self._states()
        return merged(self.name, {p: state.window_items(window) for p, state in states.items()})

    def value(self, key: Any, window: Window) -> Any:
        """Return the aggregation's result for a key in a window."""
        states: dict[int, TaskWindows] = self._states()
        holders = [p for p, state in states.items() if key in state.window_items(window)]
        _one(self.name, key, holders)
        holder = states[holders[0]] if holders else next(iter(states.values()))
        return holder.value(key, window)

    def add_at(self, key: Any, value: Any, time: int) -> None:
        """Refuse."""
        self._refuse()

    def merge_at(self, key: Any, partial: Any, time: int) -> None:
        """Refuse."""
        self._refuse()

    def add_batch(self, keys: Any) -> None:
        """Refuse."""
        self._refuse()


def view_of(table: Table[Any], states: Callable[[], dict[int, Any]]) -> PlainView | WindowedView:
    """Return the view of a table; `states` returns its live sides by partition."""
    if isinstance(table, WindowedTable):
        return WindowedView(table.name, states, table.spec)
    return PlainView(table.name, states)
