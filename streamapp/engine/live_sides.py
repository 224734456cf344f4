"""What the agents of a task work with: its tables, its `key_by`s, its outbox and the record at hand.

What an agent starts has a copy of the context that was the agent's then, and may go on when the
batch is over: a sibling in an `asyncio.gather` of which one raised, a task that nobody awaits. So
what is bound is bound for one attempt at one batch, and dead after it: `BatchEnded` is all that
comes of it then.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from streamapp.engine.context import current_outbox
from streamapp.engine.key_by import Combiner
from streamapp.engine.outbox import Outbox
from streamapp.engine.topology import Topology
from streamapp.state.cursor import Cursor
from streamapp.state.plain import PlainState
from streamapp.state.store import Store
from streamapp.state.table import Table, TaskWindows, WindowedTable

__all__ = ["LiveSides"]


class LiveSides:
    """The live sides of all that the agents of a topology use, in one task.

    Arguments:
        context: where the agents find them.
        new_outbox: makes the outbox of an attempt.

    Attributes:
        tables: by name, with what the last attempt wrote until it is committed or rolled back.
        windowed: those with windows, beside their declarations.
        combiners, cursor, outbox: of the attempt at hand, or of the last one.
    """

    def __init__(
        self,
        topology: Topology,
        store: Store,
        context: Context,
        new_outbox: Callable[[], Outbox],
    ) -> None:
        self.cursor = Cursor()
        self.outbox = new_outbox()
        self.combiners: list[Combiner] = []
        self.windowed: list[tuple[WindowedTable, TaskWindows]] = []
        self.tables: dict[str, PlainState | TaskWindows] = {}
        self._plain: list[tuple[Table[Any], PlainState]] = []
        self._key_bys = topology.key_bys
        self._context = context
        self._new_outbox = new_outbox
        for table in topology.tables:
            state = table.open(store, self.cursor)
            if isinstance(table, WindowedTable):
                self.windowed.append((table, state))
            else:
                self._plain.append((table, state))
        self._name_tables()

    def _name_tables(self) -> None:
        self.tables = {table.name: state for table, state in self._plain}
        self.tables |= {table.name: windows for table, windows in self.windowed}

    def begin(self) -> None:
        """Bind everything for an attempt."""
        self.cursor, self.outbox = Cursor(), self._new_outbox()
        for _, windows in self.windowed:
            windows.follow(self.cursor)
        self.combiners = [Combiner(key_by, self.outbox, self.cursor) for key_by in self._key_bys]
        self._context.run(self._bind)

    def _bind(self) -> None:
        current_outbox.set(self.outbox)
        for table, state in (*self._plain, *self.windowed):
            table.bind(state)
        for combiner in self.combiners:
            combiner.key_by.bind(combiner)

    def end(self) -> None:
        """The attempt is over, one way or the other: what is bound is of no use any more."""
        self.outbox.end()
        for combiner in self.combiners:
            combiner.end()
        self._plain = [(table, state.succeeded()) for table, state in self._plain]
        self.windowed = [(table, windows.succeeded()) for table, windows in self.windowed]
        self._name_tables()

    def commit(self) -> None:
        """What the last attempt wrote is in the store now."""
        for state in self.tables.values():
            state.commit()

    def rollback(self) -> None:
        """Forget everything that is not committed."""
        for state in self.tables.values():
            state.rollback()
        self.cursor.clear()
