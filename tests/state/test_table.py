"""Tables as an agent sees them: a mapping, or panes at the event time of the record at hand."""

from collections.abc import Iterable
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import pytest

from streamapp.errors import ConfigurationError, TableError
from streamapp.state import BatchTable, Count, Max, Mean, Window, WindowedTable
from streamapp.state.cursor import Cursor
from streamapp.state.store import Store
from streamapp.state.table import Table, TaskWindows


class Registry:
    """An application, as far as tables know one."""

    def __init__(self) -> None:
        self.tables: dict[str, Table[Any]] = {}

    def add_table(self, table: Table[Any]) -> None:
        self.tables[table.name] = table


class AtWork:
    """A windowed table in a task whose agent is at one record after the other."""

    def __init__(self, table: WindowedTable, store: Store) -> None:
        self.cursor = Cursor()
        self.store = store
        self.state: TaskWindows = table.open(store, self.cursor)
        self.state.restored(None)
        table.bind(self.state)

    def records(self, *times: int) -> Iterable[int]:
        self.cursor.times = list(times)
        for self.cursor.index in range(len(times)):
            yield self.cursor.index
        self.cursor.clear()

    def checkpoint(self, watermark: int | None = None) -> None:
        self.state.close(watermark)
        self.store.write([self.state.changes()], None)
        self.state.commit()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def table(registry: Registry, store: Store) -> BatchTable:
    table = BatchTable(registry, "ages", default=int)
    table.bind(table.open(store, Cursor()))
    return table


@pytest.fixture
def counts(registry: Registry) -> WindowedTable:
    """Windows of 30 s every 10 s."""
    return BatchTable(registry, "counts", aggregate=Count()).hopping(30, 10)


@pytest.fixture
def work(counts: WindowedTable, store: Store) -> AtWork:
    return AtWork(counts, store)


# ---------------------------------------------------------------------- a mapping


def test_a_table_is_a_mapping(table: BatchTable):
    table["ann"] = 1
    table["bob"] = 2
    table["bob"] += 1
    assert table["bob"] == 3
    assert sorted(table) == sorted(table.keys()) == ["ann", "bob"]
    assert sorted(table.values()) == [1, 3]
    assert dict(table.items()) == {"ann": 1, "bob": 3}
    assert len(table) == 2
    assert "ann" in table
    assert "eve" not in table


def test_a_missing_key_reads_as_the_default(table: BatchTable):
    assert table["eve"] == 0
    assert table.get("eve") is None
    assert table.get("eve", 7) == 7


def test_a_table_without_a_default_raises(registry: Registry, store: Store):
    table = BatchTable(registry, "strict")
    table.bind(table.open(store, Cursor()))
    with pytest.raises(KeyError):
        table["eve"]
    with pytest.raises(KeyError):
        del table["eve"]


def test_pop_removes(table: BatchTable):
    table["ann"] = 1
    assert table.pop("ann") == 1
    assert "ann" not in table
    assert table.pop("ann", None) is None
    with pytest.raises(KeyError):
        table.pop("ann")


def test_two_tables_of_a_task_do_not_see_each_other(registry: Registry, store: Store):
    tables = [BatchTable(registry, name) for name in ("a", "ab", "a.b")]
    states = [table.open(store, Cursor()) for table in tables]
    for table, state in zip(tables, states, strict=True):
        table.bind(state)
        table["key"] = table.name
        store.write([state.changes()], None)
        state.commit()
        state.rollback()
    for table in tables:
        assert dict(table.items()) == {"key": table.name}


def test_each_task_sees_its_own_state(registry: Registry, store: Store, table: BatchTable):
    table["ann"] = 1

    def elsewhere() -> int:
        table.bind(table.open(store, Cursor()))
        return len(table)

    assert copy_context().run(elsewhere) == 0
    assert len(table) == 1


def test_a_table_is_registered_as_it_was_declared_last(registry: Registry, counts: WindowedTable):
    assert registry.tables == {"counts": counts}


def test_a_table_outside_a_task_says_where_it_belongs(registry: Registry):
    plain = BatchTable(registry, "lonely")
    with pytest.raises(TableError, match=r"'lonely' was used where no task has it.*\[lonely\]"):
        plain["a"]
    with pytest.raises(TableError, match="no task"):
        plain["a"] = 1
    windowed = BatchTable(registry, "lonelier", default=int).tumbling(1)
    with pytest.raises(TableError, match="no task"):
        windowed["a"] += 1


@pytest.mark.parametrize("name", ["", "a\0b", "a/b", "a b", "ä", "x" * 250])
def test_a_name_that_no_topic_can_have_is_refused(registry: Registry, name: str):
    with pytest.raises(ConfigurationError, match="a table's name"):
        BatchTable(registry, name)
    assert registry.tables == {}


def test_windows_need_an_aggregation(registry: Registry):
    with pytest.raises(ValueError, match="needs an aggregation"):
        BatchTable(registry, "names", default=str).tumbling(10)


# ---------------------------------------------------------------------- panes


def test_adding_is_at_the_event_time_of_the_record_at_hand(counts: WindowedTable, work: AtWork):
    for _ in work.records(1_000, 11_000, 12_000):
        counts["error"] += 1
    assert counts.windows() == [
        Window(start, start + 30_000) for start in range(-20_000, 20_000, 10_000)
    ]
    assert counts.window(Window(-10_000, 20_000)) == {"error": 3}
    assert counts.window(Window(-20_000, 10_000)) == {"error": 1}
    assert counts.window(Window(10_000, 40_000)) == {"error": 2}
    assert counts.window(Window(40_000, 70_000)) == {}


def test_current_is_the_newest_window_of_the_record_and_delta_an_earlier_one(
    counts: WindowedTable, work: AtWork
):
    seen = []
    for index in work.records(1_000, 15_000, 45_000):
        counts["error"] += 10**index
        seen.append((counts["error"].current(), counts["error"].delta(30)))
    assert seen == [(1, 0), (10, 1), (100, 10)]
    assert counts.value("error", 1_500) == 11
    assert counts.value("error", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 11


def test_a_value_can_be_read_at_another_time(counts: WindowedTable, work: AtWork):
    counts.add("error", 5, at=1_000)
    for _ in work.records(50_000):
        assert counts["error"].at(1_000) == 5
        assert counts["error"].current() == 0


def test_default_int_means_sum(registry: Registry, store: Store):
    sums = BatchTable(registry, "sums", default=int).tumbling(10)
    work = AtWork(sums, store)
    for index in work.records(0, 1):
        sums["a"] += index + 1
    assert sums.window(Window(0, 10_000)) == {"a": 3}


def test_other_aggregations_add_in_their_own_sense(registry: Registry, store: Store):
    means = BatchTable(registry, "means", aggregate=Mean()).tumbling(10)
    work = AtWork(means, store)
    for index in work.records(0, 1, 2):
        means["a"].add(index * 2)
    means.merge("a", [18, 1], at=0)
    assert means.window(Window(0, 10_000)) == {"a": 6.0}
    assert means.value("b", 0) is None


def test_a_pane_takes_a_partial_of_the_record_at_hand(counts: WindowedTable, work: AtWork):
    for _ in work.records(1_000):
        counts["error"].merge(4)
        counts.merge("error", 2)
        counts.add("error", 1)
    assert counts.value("error", 1_000) == 7


def test_add_each_counts_a_batch(counts: WindowedTable, work: AtWork):
    work.cursor.times = [1_000, 2_000, 11_000]
    counts.add_each(iter("aba"))
    assert counts.window(Window(-20_000, 10_000)) == {"a": 1, "b": 1}
    assert counts.window(Window(0, 30_000)) == {"a": 2, "b": 1}


@pytest.mark.parametrize("times", [[1_000, 2_000], [1_000, 11_000]])
@pytest.mark.parametrize("keys", ["a", "abc"])
def test_add_each_wants_a_key_for_each_record(
    counts: WindowedTable, work: AtWork, times: list[int], keys: str
):
    work.cursor.times = times
    with pytest.raises(ValueError):
        counts.add_each(keys)
    assert counts.windows() == []


def test_add_each_is_for_counting(registry: Registry, store: Store):
    highest = BatchTable(registry, "highest", aggregate=Max()).tumbling(10)
    work = AtWork(highest, store)
    work.cursor.times = [0]
    with pytest.raises(TableError, match=r"add_each counts, which Max does not"):
        highest.add_each("a")


def test_a_late_record_is_remembered_once_however_often_it_was_added(
    counts: WindowedTable, work: AtWork
):
    for _ in work.records(100_000):
        counts["a"] += 1
    work.checkpoint(watermark=90_000)
    for _ in work.records(69_999, 70_000, 0):
        counts["a"] += 1
        counts["b"].add(1)
        counts["c"].merge(1)
    assert work.state.late_records == [0, 2]
    assert counts.window(Window(50_000, 80_000)) == {}
    assert counts.window(Window(70_000, 100_000)) == dict.fromkeys("abc", 1)
    assert counts.value("a", 70_000) == 1


def test_add_each_remembers_late_records(counts: WindowedTable, work: AtWork):
    work.checkpoint(watermark=90_000)
    work.cursor.times = [69_999, 70_000, 0, 95_000]
    counts.add_each("abcd")
    assert work.state.late_records == [0, 2]
    assert work.state.late == 2


def test_late_records_are_those_of_this_batch(counts: WindowedTable, work: AtWork):
    work.checkpoint(watermark=90_000)
    for _ in work.records(0):
        counts["a"] += 1
    work.state.rollback()
    assert (work.state.late, work.state.late_records) == (0, [])
    for _ in work.records(0):
        counts["a"] += 1
    work.checkpoint()
    assert (work.state.late, work.state.late_records) == (0, [])


def test_a_late_addition_without_a_record_is_counted_only(counts: WindowedTable, work: AtWork):
    work.checkpoint(watermark=90_000)
    counts.add("a", 1, at=0)
    assert (work.state.late, work.state.late_records) == (1, [])


# ---------------------------------------------------------------------- errors


def test_a_plain_value_cannot_be_assigned_to_windows(counts: WindowedTable, work: AtWork):
    for _ in work.records(0):
        with pytest.raises(
            TableError, match=r"counts\['a'\] = 3: a window's value cannot be assigned"
        ):
            counts["a"] = 3


def test_another_pane_cannot_be_assigned(registry: Registry, counts: WindowedTable, work: AtWork):
    others = BatchTable(registry, "others", aggregate=Count()).tumbling(10)
    AtWork(others, work.store)
    for _ in work.records(0):
        with pytest.raises(TableError, match="cannot be assigned"):
            counts["a"] = counts["b"]
        with pytest.raises(TableError, match="cannot be assigned"):
            counts["a"] = others["a"]


def test_keys_may_be_made_anew_for_each_use(counts: WindowedTable, work: AtWork):
    for _ in work.records(0):
        counts["a", 1] += 1
        counts["".join(("b", "c"))] += 1
    assert counts.window(Window(0, 30_000)) == {("a", 1): 1, "bc": 1}


def test_a_write_without_a_record_at_hand_needs_its_time(counts: WindowedTable, work: AtWork):
    with pytest.raises(TableError, match=r"no record at hand: counts\.add\(key, value, at=time\)"):
        counts["a"] += 1
    for write in (
        lambda: counts.add("a"),
        lambda: counts.merge("a", 1),
        lambda: counts["a"].add(1),
        lambda: counts["a"].merge(1),
        lambda: counts["a"].current(),
        lambda: counts["a"].delta(5),
        lambda: counts.add_each("a"),
    ):
        with pytest.raises(TableError, match="no record at hand"):
            write()
    counts.add("a", at="1970-01-01T00:00:01Z")
    assert counts.value("a", 1_000) == 1


def test_a_windowed_table_is_no_container(counts: WindowedTable, work: AtWork):
    with pytest.raises(TypeError):
        "a" in counts  # noqa: B015
    with pytest.raises(TypeError):
        iter(counts)


def test_where_results_go_is_said_on_the_table(counts: WindowedTable):
    class Topic:
        def get_topic_name(self) -> str:
            return "results"

    topic = Topic()
    assert counts.emit_final(topic).emit_updates(topic).late_to(topic) is counts
    assert counts.final_topic is counts.updates_topic is counts.late_topic is topic
