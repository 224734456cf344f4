"""Tables as an application declares them.

A declaration holds no data. Each task has a live side of it (`PlainState`, `WindowedState`), found
through a ContextVar, so that `table[key]` in an agent is the state of the agent's own task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from streamapp.errors import ConfigurationError, TableError
from streamapp.state.aggregates import Aggregate, Sum
from streamapp.state.codecs import Codec, codec_for, key_codec_for
from streamapp.state.cursor import Cursor
from streamapp.state.plain import PlainState
from streamapp.state.store import Store
from streamapp.state.task_windows import PaneValue, TaskWindows
from streamapp.state.time import to_milliseconds
from streamapp.state.windows import Window, WindowSpec, milliseconds

__all__ = ["BatchTable", "Closer", "PaneValue", "Table", "TaskWindows", "WindowedTable"]

_LEGAL_NAME = re.compile(r"[a-zA-Z0-9._-]{1,200}")

_StateT = TypeVar("_StateT", covariant=True)

#: Takes a window that is closed, and its keys and values.
Closer = Callable[[Window, dict[Any, Any]], None]
_CloserT = TypeVar("_CloserT", bound=Closer)


class Sink(Protocol):
    """Where results go: a topic."""

    def get_topic_name(self) -> str: ...


class Registry(Protocol):
    """Who keeps the tables of an application."""

    def add_table(self, table: Table[Any]) -> None: ...


class Table(Generic[_StateT]):
    """What both kinds of table share: a name, codecs, and the way to the task's live side."""

    def __init__(self, registry: Registry, name: str, key: Codec, value: Codec) -> None:
        if not _LEGAL_NAME.fullmatch(name):
            raise ConfigurationError(
                f"a table's name is part of its changelog topic's: letters, digits, '.', '_' and '-', not {name!r}"
            )
        self.registry = registry
        self.name = name
        self.key_codec = key
        self.value_codec = value
        self._states: ContextVar[Any] = ContextVar(f"streamapp-table-{name}")
        registry.add_table(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def _state(self) -> _StateT:
        try:
            state: _StateT = self._states.get()
        except LookupError:
            raise TableError(
                f"the table {self.name!r} was used where no task has it: use it in a batch agent, and if the "
                f"agent does not name it in its own body, declare it: @app.batch_agent(…, uses=[{self.name}])"
            ) from None
        return state

    def open(self, store: Store, cursor: Cursor) -> _StateT:
        """Return the live side of this table on a task's store."""
        raise NotImplementedError

    def bind(self, state: Any) -> Token[Any]:
        """Make a live side the one that this context sees."""
        return self._states.set(state)


class BatchTable(Table[PlainState]):
    """A mapping that a task keeps, checkpointed with its batches.

    `table[key]` is the value (or the default's), `table[key] = value` writes the overlay of the
    batch; nothing of it is stored or seen outside before the batch's transaction is committed.

    Arguments:
        default: what makes the value of a missing key; without one, `KeyError`.
        aggregate: how a window's values become one (`.tumbling()`, `.hopping()`); with
            `default=int` that is the sum.
        key_type, value_type: how keys and values are stored (`streamapp.state.codecs`); JSON.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        *,
        default: Callable[[], Any] | None = None,
        aggregate: Aggregate | None = None,
        key_type: Any = None,
        value_type: Any = None,
    ) -> None:
        super().__init__(registry, name, key_codec_for(key_type), codec_for(value_type))
        self._default = default
        self._aggregate = aggregate

    def open(self, store: Store, cursor: Cursor) -> PlainState:
        """Return the live side of this table on a task's store."""
        del cursor
        return PlainState(self.name, store, self.key_codec, self.value_codec, self._default)

    # ------------------------------------------------------------------ windows

    def tumbling(self, size: float | timedelta, *, expires: float | timedelta = 0) -> WindowedTable:
        """Return this table in windows of `size` seconds that follow each other."""
        return self.hopping(size, size, expires=expires)

    def hopping(
        self, size: float | timedelta, step: float | timedelta, *, expires: float | timedelta = 0
    ) -> WindowedTable:
        """Return this table in windows of `size` seconds, one every `step` seconds.

        Arguments:
            expires: for how many seconds of event time a closed window stays readable.

        Raises:
            ValueError: the table has no aggregation, or the window has no sensible shape.
        """
        aggregate = self._aggregate
        if aggregate is None and self._default in (int, float):
            aggregate = Sum()
        if aggregate is None:
            raise ValueError(
                f"the table {self.name!r} needs an aggregation to have windows: "
                "app.BatchTable(…, aggregate=Count()), or default=int for sums"
            )
        spec = WindowSpec(milliseconds(size), milliseconds(step), milliseconds(expires))
        return WindowedTable(
            self.registry, self.name, self.key_codec, self.value_codec, aggregate, spec
        )

    # ------------------------------------------------------------------ the mapping

    def __getitem__(self, key: Any) -> Any:
        return self._state[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._state[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._state[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._state

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self._state.items())

    def __len__(self) -> int:
        return sum(1 for _ in self._state.items())

    def get(self, key: Any, default: Any = None) -> Any:
        """Return a key's value, or `default` when there is none."""
        return self._state.get(key, default)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove a key and return its value.

        Raises:
            KeyError: there is none and no default was given.
        """
        state = self._state
        if key not in state:
            if default:
                return default[0]
            raise KeyError(key)
        value = state[key]
        del state[key]
        return value

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values in no particular order."""
        return self._state.items()

    def keys(self) -> Iterator[Any]:
        """Yield keys in no particular order."""
        return iter(self)

    def values(self) -> Iterator[Any]:
        """Yield values in no particular order."""
        return (value for _, value in self._state.items())


class WindowedTable(Table[TaskWindows]):
    """A table of an aggregation in hopping or tumbling windows of event time.

    `table[key] += 1` adds at the event time of the record at hand. Results leave with the
    transaction of the batch: `emit_final` once a window is closed by the watermark, `emit_updates`
    whenever a batch changed an open one.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        key: Codec,
        value: Codec,
        aggregate: Aggregate,
        spec: WindowSpec,
    ) -> None:
        self.aggregate = aggregate
        self.spec = spec
        self.final_topic: Any = None
        self.updates_topic: Any = None
        self.late_topic: Any = None
        self.closer: Closer | None = None
        super().__init__(registry, name, key, value)

    def open(self, store: Store, cursor: Cursor) -> TaskWindows:
        """Return the live side of this table on a task's store."""
        return TaskWindows(
            self.name, store, self.key_codec, self.aggregate, self.value_codec, self.spec, cursor
        )

    def emit_final(self, topic: Sink) -> WindowedTable:
        """Send each window's value to a topic once, when the watermark has passed its end."""
        self.final_topic = topic
        return self

    def emit_updates(self, topic: Sink) -> WindowedTable:
        """Send the open windows that a batch changed to a topic, with the batch."""
        self.updates_topic = topic
        return self

    def late_to(self, topic: Sink) -> WindowedTable:
        """Send records that came after their last window was closed to a topic, as they are."""
        self.late_topic = topic
        return self

    def on_close(self, function: _CloserT) -> _CloserT:
        """Call a function with each window that the watermark closes, once, oldest first.

        It is called as `function(window, {key: value})` in the checkpoint that closes the window:
        what it writes to tables and sends (with `key_by.add(…, at=…)` and `topic.send_soon(…)`) is
        part of that transaction. Each task calls it with its own keys. It may use the tables and
        topics that it names in its own body, as an agent does.

        Raises:
            ConfigurationError: the table has such a function.
        """
        if self.closer is not None:
            raise ConfigurationError(
                f"the windows of {self.name!r} are closed by {self.closer.__name__} already: call "
                f"{function.__name__} from there"
            )
        self.closer = function
        return function

    # Without these, `in` and `for` would try table[0], table[1], … and never end.
    __contains__ = None
    __iter__ = None

    def __getitem__(self, key: Any) -> PaneValue:
        try:
            return PaneValue(self._states.get(), key)
        except LookupError:
            return PaneValue(self._state, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if (
            type(value) is not PaneValue
            or (value._key is not key and value._key != key)
            or value._state.name != self.name
        ):
            raise TableError(
                f"{self.name}[{key!r}] = {value!r}: a window's value cannot be assigned, since a record is in "
                f"several windows; add to it: {self.name}[key] += value"
            )

    def add(self, key: Any, value: Any = 1, *, at: Any = None) -> None:
        """Add a value to a key, at the event time of the record at hand or at another one."""
        state = self._state
        state.add_at(key, value, state.now() if at is None else to_milliseconds(at))

    def merge(self, key: Any, partial: Any, *, at: Any = None) -> None:
        """Merge an accumulator of the same aggregation, as `key_by` combines them."""
        state = self._state
        state.merge_at(key, partial, state.now() if at is None else to_milliseconds(at))

    def add_each(self, keys: Any) -> None:
        """Add 1 to the key of each record of the batch at hand, each at its event time.

        `keys` has one key a record, in order. Each key is counted first and touched once: the fast
        way to count a batch.
        """
        self._state.add_batch(keys)

    def value(self, key: Any, at: Any) -> Any:
        """Return a key's value in the newest window that holds an event time."""
        return self._state.value(key, self.spec.newest(to_milliseconds(at)))

    def windows(self) -> list[Window]:
        """Return the windows that hold something, oldest first."""
        return self._state.windows()

    def window(self, window: Window) -> dict[Any, Any]:
        """Return all keys and values of a window."""
        return self._state.window_items(window)
