"""Windowed state against brute force: every window, over the records that were not late."""

from collections import Counter
from collections.abc import Iterable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamapp.errors import TableError
from streamapp.state import windowed
from streamapp.state.aggregates import Aggregate, Count, Max, Mean, Sum
from streamapp.state.codecs import codec_for, key_codec_for
from streamapp.state.store import Store, TableWrites
from streamapp.state.windowed import WindowedState, pane_key, parse_pane_key
from streamapp.state.windows import Window, WindowSpec
from tests.state.quick import QUICK, QUICK_MACHINE
from tests.state.replica import ReplicatedStore, contents

KEYS = st.sampled_from(["", "a", "b", ("a", 1)])
VALUES = st.integers(-5, 5)
TIMES = st.integers(-60, 120)
SPECS = st.sampled_from(
    [
        WindowSpec(10, 10),
        WindowSpec(30, 10),
        WindowSpec(30, 10, keep=25),
        WindowSpec(10, 10, keep=1),
        WindowSpec(25, 10, keep=7),
        WindowSpec(7, 3),
    ]
)
#: What each record is worth: the arguments of `add`.
Entry = tuple[Any, int, int]


def state_on(store: Store, spec: WindowSpec, aggregate: Aggregate) -> WindowedState:
    return WindowedState("table", store, key_codec_for(), aggregate, codec_for(), spec)


def opened(
    store: Store, spec: WindowSpec, aggregate: Aggregate, closed_until: int | None = None
) -> WindowedState:
    state = state_on(store, spec, aggregate)
    state.restored(closed_until)
    return state


def checkpoint(state: WindowedState, store: Store, watermark: int | None = None) -> list[Window]:
    closing = state.close(watermark)
    store.write([state.changes()], None)
    state.commit()
    return closing


class Oracle:
    """Windows by their definition, over a list of records."""

    def __init__(self, spec: WindowSpec, aggregate: Aggregate) -> None:
        self.spec = spec
        self.aggregate = aggregate

    def late(self, time: int, closed: int | None) -> bool:
        return closed is not None and all(w.end <= closed for w in self.spec.windows(time))

    def windows(self, records: Iterable[Entry]) -> set[Window]:
        return {window for _, _, time in records for window in self.spec.windows(time)}

    def values(self, records: Iterable[Entry], window: Window) -> dict[Any, Any]:
        accumulators: dict[Any, Any] = {}
        for key, value, time in records:
            if window.start <= time < window.end:
                before = accumulators.get(key, self.aggregate.zero())
                accumulators[key] = self.aggregate.add(before, value)
        return {key: self.aggregate.result(found) for key, found in accumulators.items()}

    def readable(self, window: Window, closed: int | None) -> bool:
        return closed is None or window.end + self.spec.keep > closed

    def kept(self, records: Iterable[Entry], closed: int | None) -> list[Entry]:
        """The records whose pane is not expired."""
        return [
            record
            for record in records
            if closed is None
            or max(w.end for w in self.spec.windows(record[2])) + self.spec.keep > closed
        ]


class WindowedAgainstBruteForce(RuleBasedStateMachine):
    """Any sequence of additions, checkpoints, aborts and restarts, beside a list of records."""

    @initialize(
        spec=SPECS,
        aggregate=st.sampled_from([Count(), Sum(), Max(), Mean()]),
        cached=st.sampled_from([0, 3, 1000]),
    )
    def begin(self, spec: WindowSpec, aggregate: Aggregate, cached: int) -> None:
        self.patch = mock.patch.object(windowed, "CACHED_KEYS", cached)
        self.patch.start()
        self.oracle = Oracle(spec, aggregate)
        self.replica = ReplicatedStore()
        neighbour = [(pane_key(start), b"1") for start in range(-60, 120)]
        for name in ("tabl", "table.", "table1"):
            self.replica.store.write([TableWrites(name, puts=neighbour)], None)
        self.state = opened(self.replica.store, spec, aggregate)
        self.closed: int | None = None
        self.committed: list[Entry] = []
        self.pending: list[Entry] = []
        self.late = 0
        self.finals: Counter[Window] = Counter()

    def teardown(self) -> None:
        if hasattr(self, "replica"):
            self.commit_until(10_000)
            assert self.state.windows() == []
            assert contents(self.replica.store, "table") == {}
            for name in ("tabl", "table.", "table1"):
                assert len(contents(self.replica.store, name)) == 180
            self.replica.remove()
            self.patch.stop()

    # ------------------------------------------------------------------ what a batch does

    def arrive(self, *records: Entry) -> int:
        """Tell the oracle; return how many of the records are late."""
        late = [record for record in records if self.oracle.late(record[2], self.closed)]
        self.pending += [record for record in records if record not in late]
        self.late += len(late)
        return len(late)

    @rule(key=KEYS, value=VALUES, time=TIMES)
    def add(self, key: Any, value: int, time: int) -> None:
        assert self.state.add(key, value, time) == (self.arrive((key, value, time)) == 0)

    @rule(key=KEYS, values=st.lists(VALUES, min_size=1, max_size=3), time=TIMES)
    def merge(self, key: Any, values: list[int], time: int) -> None:
        aggregate = self.oracle.aggregate
        partial = aggregate.zero()
        for value in values:
            partial = aggregate.add(partial, value)
        late = self.arrive(*[(key, value, time) for value in values])
        assert self.state.merge(key, partial, time) == (late == 0)
        self.late -= max(late - 1, 0)

    @precondition(lambda self: self.oracle.aggregate.additive)
    @rule(records=st.lists(st.tuples(KEYS, TIMES), max_size=5))
    def add_each(self, records: list[tuple[Any, int]]) -> None:
        keys, times = [key for key, _ in records], [time for _, time in records]
        late = self.state.add_each(keys, times)
        assert late == self.arrive(*[(key, 1, time) for key, time in records])

    @rule(key=KEYS, time=TIMES)
    def read_a_value(self, key: Any, time: int) -> None:
        for window in self.oracle.spec.windows(time):
            empty = self.oracle.aggregate.result(self.oracle.aggregate.zero())
            expected = self.expected(window).get(key, empty)
            assert self.state.value(key, window) == expected

    @rule(time=TIMES)
    def read_windows(self, time: int) -> None:
        for window in self.oracle.spec.windows(time):
            assert self.state.window_items(window) == self.expected(window)

    def expected(self, window: Window) -> dict[Any, Any]:
        if not self.oracle.readable(window, self.closed):
            return {}
        return self.oracle.values(self.committed + self.pending, window)

    # ------------------------------------------------------------------ what a task does

    @rule(advance=st.none() | st.integers(-5, 40))
    def commit(self, advance: int | None) -> None:
        self.commit_until(None if advance is None else (self.closed or -60) + advance)

    def commit_until(self, watermark: int | None) -> None:
        self.finals.update(self.closing(watermark))
        assert set(self.finals.values()) <= {1}, "a window was closed twice"
        self.replica.write(self.state.changes())
        self.state.commit()
        self.committed += self.pending
        self.pending = []
        self.late = 0
        self.closed = self.moved(watermark)
        assert sum(map(len, self.state._clean.values())) <= windowed.CACHED_KEYS

    @rule(advance=st.integers(0, 40))
    def fail_before_the_commit(self, advance: int) -> None:
        self.closing((self.closed or -60) + advance)
        self.state.changes()
        self.roll_back()

    @rule()
    def roll_back(self) -> None:
        self.state.rollback()
        self.pending = []
        self.late = 0

    @rule()
    def restart(self) -> None:
        store = self.replica.reopen()
        self.state = opened(store, self.oracle.spec, self.oracle.aggregate, self.closed)
        self.pending = []
        self.late = 0

    @rule()
    def rebuild_from_the_changelog(self) -> None:
        assert self.replica.rebuilt("table") == contents(self.replica.store, "table")

    def moved(self, watermark: int | None) -> int | None:
        if watermark is None or self.closed is None:
            return self.closed if watermark is None else watermark
        return max(watermark, self.closed)

    def closing(self, watermark: int | None) -> list[Window]:
        """Close windows: those that end in between, with values by brute force; and only those."""
        records, until = self.committed + self.pending, self.moved(watermark)
        closing = self.state.close(watermark)
        assert closing == sorted(
            window
            for window in self.oracle.windows(records)
            if until is not None
            and window.end <= until
            and (self.closed is None or window.end > self.closed)
        )
        for window in closing:
            assert self.state.window_items(window) == self.oracle.values(records, window)
        assert self.state.closed_until == until
        touched = {
            (key, window)
            for key, _, time in self.pending
            for window in self.oracle.spec.windows(time)
            if until is None or window.end > until
        }
        updated = {(found.key, found.window): found.value for found in self.state.updated()}
        assert updated == {
            (key, window): self.oracle.values(records, window)[key] for key, window in touched
        }
        return closing

    # ------------------------------------------------------------------ at any time

    @invariant()
    def lists_the_windows_that_hold_something(self) -> None:
        records = self.oracle.kept(self.committed + self.pending, self.closed)
        windows = self.oracle.windows(records)
        readable = {window for window in windows if self.oracle.readable(window, self.closed)}
        assert self.state.windows() == sorted(readable)

    @invariant()
    def knows_what_closes_next(self) -> None:
        windows = self.oracle.windows(self.committed + self.pending)
        ends = [w.end for w in windows if self.closed is None or w.end > self.closed]
        assert self.state.next_close() == min(ends, default=None)

    @invariant()
    def counts_what_is_late(self) -> None:
        assert self.state.late == self.late

    @invariant()
    def the_store_holds_the_committed_panes_that_are_not_expired(self) -> None:
        spec = self.oracle.spec
        kept = self.oracle.kept(self.committed, self.closed)
        expected = {(spec.pane_of(time), key) for key, _, time in kept}
        decode = key_codec_for().decode
        stored = [parse_pane_key(key) for key in contents(self.replica.store, "table")]
        assert {(start, decode(key)) for start, key in stored} == expected

    @invariant()
    def another_owner_reads_only_what_is_committed(self) -> None:
        spec, aggregate = self.oracle.spec, self.oracle.aggregate
        fresh = opened(self.replica.store, spec, aggregate, self.closed)
        for window in fresh.windows():
            assert fresh.window_items(window) == self.oracle.values(self.committed, window)


TestWindowedAgainstBruteForce = WindowedAgainstBruteForce.TestCase
TestWindowedAgainstBruteForce.settings = QUICK_MACHINE


# ---------------------------------------------------------------------- keys


@QUICK
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=3)), max_size=10))
def test_stored_keys_sort_as_panes_do(panes: list[tuple[int, bytes]]):
    stored = sorted(pane_key(start, key) for start, key in panes)
    assert [parse_pane_key(key) for key in stored] == sorted(panes)


# ---------------------------------------------------------------------- by example


def test_a_record_that_is_late_for_some_windows_counts_in_the_others(store: Store):
    state = opened(store, WindowSpec(30, 10), Count())
    state.add("a", 1, 5)
    assert checkpoint(state, store, watermark=10) == [Window(-20, 10)]
    assert state.add("a", 1, 6)
    assert state.late == 0
    assert state.close(20) == [Window(-10, 20)]
    assert state.window_items(Window(-10, 20)) == {"a": 2}


def test_a_record_is_late_when_its_last_window_is_closed(store: Store):
    state = opened(store, WindowSpec(30, 10), Count())
    checkpoint(state, store, watermark=40)
    assert state.add("a", 1, 10) is False
    assert state.add("a", 1, 19) is False
    assert state.add("a", 1, 20) is True
    assert state.late == 2
    assert state.next_close() == 50


def test_a_watermark_that_goes_back_closes_nothing_and_opens_nothing(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    state.add("a", 1, 5)
    checkpoint(state, store, watermark=10)
    assert checkpoint(state, store, watermark=5) == []
    assert state.closed_until == 10
    assert state.add("a", 1, 5) is False


def test_a_closed_window_can_be_read_for_as_long_as_it_is_kept(store: Store):
    state = opened(store, WindowSpec(10, 10, keep=5), Count())
    state.add("a", 1, 5)
    checkpoint(state, store, watermark=14)
    assert state.value("a", Window(0, 10)) == 1
    checkpoint(state, store, watermark=15)
    assert state.value("a", Window(0, 10)) == 0
    assert contents(store, "table") == {}


def test_an_expired_window_does_not_read_as_the_panes_that_are_left_of_it(store: Store):
    state = opened(store, WindowSpec(30, 10), Count())
    state.add("a", 1, 5)
    state.add("a", 1, 25)
    checkpoint(state, store, watermark=30)
    assert state.value("a", Window(0, 30)) == 0
    assert state.window_items(Window(0, 30)) == {}
    assert state.windows() == [Window(10, 40), Window(20, 50)]


def test_expiry_is_one_range_for_the_store_and_a_tombstone_a_key_for_the_changelog(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    state.add("a", 1, 5)
    state.add("b", 1, 5)
    checkpoint(state, store)
    state.close(10)
    writes = state.changes()
    assert writes.puts == []
    assert writes.ranges == [(pane_key(0), pane_key(1))]
    assert sorted(writes.deletes) == [pane_key(0, b'"a"'), pane_key(0, b'"b"')]


def test_a_window_that_opens_and_closes_in_one_batch_is_never_stored(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    state.add("a", 1, 5)
    assert state.close(10) == [Window(0, 10)]
    assert state.window_items(Window(0, 10)) == {"a": 1}
    assert state.changes().empty


def test_a_jump_of_the_watermark_costs_no_more_than_what_it_closes(store: Store):
    state = opened(store, WindowSpec(30_000, 10_000), Count())
    state.add("a", 1, 1_122_030_245_000)
    checkpoint(state, store, watermark=1_122_030_245_000)
    assert len(state.close(1_922_030_245_000)) == 3


def test_what_is_added_at_a_negative_time_is_found_after_a_restart(store: Store):
    spec = WindowSpec(30, 10)
    state = opened(store, spec, Sum())
    state.add("a", 3, -1)
    state.add("a", 4, 0)
    checkpoint(state, store)
    again = opened(store, spec, Sum())
    assert again.windows() == state.windows()
    assert again.value("a", Window(-20, 10)) == 7


def test_a_pane_keeps_its_other_keys_when_one_changes(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    state.add("a", 1, 5)
    state.add("b", 1, 5)
    checkpoint(state, store)
    state.add("a", 1, 5)
    checkpoint(state, store)
    assert state.value("b", Window(0, 10)) == 1
    assert state.window_items(Window(0, 10)) == {"a": 2, "b": 1}


def test_a_pane_that_is_only_partly_cached_is_read_whole(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    for key in "abc":
        state.add(key, 1, 5)
    with mock.patch.object(windowed, "CACHED_KEYS", 0):
        checkpoint(state, store)
    state.add("a", 1, 5)
    checkpoint(state, store)
    assert state.window_items(Window(0, 10)) == {"a": 2, "b": 1, "c": 1}
    assert state.value("b", Window(0, 10)) == 1


def test_a_key_that_cannot_be_stored_is_named(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    state.add(frozenset, 1, 5)
    with pytest.raises(TableError, match=r"table.*frozenset.*cannot be stored"):
        state.changes()


@pytest.mark.parametrize("times", [[1, 2], [1, 11]])
def test_add_each_refuses_what_does_not_match_before_it_adds(store: Store, times: list[int]):
    state = opened(store, WindowSpec(10, 10), Count())
    with pytest.raises(ValueError):
        state.add_each(["a"], times)
    assert state.changes().empty


def test_counting_an_empty_batch_opens_no_window(store: Store):
    state = opened(store, WindowSpec(10, 10), Count())
    state.add_each([], [])
    assert state.windows() == []
    assert state.next_close() is None


def test_restored_forgets_what_was_counted_late(store: Store):
    state = opened(store, WindowSpec(10, 10), Count(), closed_until=100)
    state.add("a", 1, 5)
    state.restored(100)
    assert state.late == 0
