"""A table without windows is a dict with checkpoints."""

from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamapp.errors import TableError
from streamapp.state import plain
from streamapp.state.codecs import codec_for, key_codec_for
from streamapp.state.plain import PlainState
from streamapp.state.store import Store
from tests.state.quick import QUICK_MACHINE
from tests.state.replica import ReplicatedStore, contents

KEYS = st.sampled_from(["", "a", "a\0", "b", ("a", 1), ("a",), -1, 10**9])
VALUES = st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


def state_on(store: Store, **options: Any) -> PlainState:
    return PlainState(
        "table",
        store,
        key_codec_for(options.get("key_type")),
        codec_for(options.get("value_type")),
        options.get("default"),
    )


def checkpoint(state: PlainState, store: Store) -> None:
    store.write([state.changes()], None)
    state.commit()


class PlainAgainstDict(RuleBasedStateMachine):
    """Any sequence of writes, checkpoints, rollbacks and restarts, beside two dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(plain, "CACHED_KEYS", 2)
        self.patch.start()
        self.replica = ReplicatedStore()
        self.state = state_on(self.replica.store)
        self.committed: dict[Any, Any] = {}
        self.current: dict[Any, Any] = {}

    @rule(key=KEYS, value=VALUES)
    def assign(self, key: Any, value: Any) -> None:
        self.state[key] = value
        self.current[key] = value

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        if key in self.current:
            del self.state[key]
            del self.current[key]
        else:
            with pytest.raises(KeyError):
                del self.state[key]

    @rule(key=KEYS)
    def read(self, key: Any) -> None:
        assert (key in self.state) == (key in self.current)
        assert self.state.get(key, "absent") == self.current.get(key, "absent")
        if key in self.current:
            assert self.state[key] == self.current[key]
        else:
            with pytest.raises(KeyError):
                self.state[key]

    @rule()
    def commit(self) -> None:
        self.replica.write(self.state.changes())
        self.state.commit()
        self.committed = dict(self.current)
        assert len(self.state._values) <= plain.CACHED_KEYS

    @rule()
    def roll_back(self) -> None:
        self.state.rollback()
        self.current = dict(self.committed)

    @rule()
    def fail_before_the_store_is_written(self) -> None:
        self.state.changes()
        self.roll_back()

    @rule()
    def restart(self) -> None:
        self.state = state_on(self.replica.reopen())
        self.current = dict(self.committed)

    @rule()
    def rebuild_from_the_changelog(self) -> None:
        assert self.replica.rebuilt("table") == contents(self.replica.store, "table")

    @invariant()
    def the_items_are_the_current_ones(self) -> None:
        items = list(self.state.items())
        assert len(items) == len(self.current)
        assert dict(items) == self.current

    @invariant()
    def the_store_holds_only_what_is_committed(self) -> None:
        fresh = state_on(self.replica.store)
        assert dict(fresh.items()) == self.committed

    def teardown(self) -> None:
        self.replica.remove()
        self.patch.stop()


TestPlainAgainstDict = PlainAgainstDict.TestCase
TestPlainAgainstDict.settings = QUICK_MACHINE


def test_a_missing_key_has_the_default(store: Store):
    state = state_on(store, default=int)
    state["a"] += 2
    assert state["a"] == 2
    assert state["b"] == 0
    assert "b" not in state


def test_a_default_is_not_shared_between_keys(store: Store):
    state = state_on(store, default=list)
    state["a"].append(1)
    assert state["a"] == []
    assert state["b"] == []


def test_a_default_that_was_only_read_is_not_stored(store: Store):
    state = state_on(store, default=int)
    assert state["a"] == 0
    assert state.changes().empty


def test_only_the_last_value_of_a_key_is_a_change(store: Store):
    state = state_on(store)
    for value in range(3):
        state["a"] = value
    assert state.changes().puts == [(b'"a"', b"2")]


def test_a_change_is_written_once(store: Store):
    state = state_on(store)
    state["a"] = 1
    checkpoint(state, store)
    assert state.changes().empty


def test_a_deleted_key_is_a_tombstone(store: Store):
    state = state_on(store)
    state["a"] = 1
    checkpoint(state, store)
    del state["a"]
    assert state.changes().deletes == [b'"a"']
    assert state.changes().puts == []


def test_assigning_while_iterating_does_not_disturb_the_iteration(store: Store):
    state = state_on(store)
    for key in range(5):
        state[key] = key
    checkpoint(state, store)
    for key, value in state.items():
        state[key] = value + 10
    assert dict(state.items()) == {key: key + 10 for key in range(5)}


def test_a_value_that_cannot_be_stored_is_named(store: Store):
    state = state_on(store)
    state["a"] = object()
    with pytest.raises(TableError, match=r"table\['a'\] cannot be stored"):
        state.changes()


def test_a_key_of_the_wrong_type_is_refused_when_it_is_read(store: Store):
    with pytest.raises(TypeError, match="str is wanted, not int"):
        state_on(store, key_type=str)[1]
