"""The measure of rebalances: what counts as a pause, and that a run comes to its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.rebalance import closed, pauses
from tests.bench.running import run


def worker(*history: tuple[float, set[int]]) -> Any:
    return SimpleNamespace(history=[(at, frozenset(tasks)) for at, tasks in history])


def test_a_task_that_another_worker_has_is_open() -> None:
    first = worker((0.0, {0, 1}), (5.0, set()), (5.5, {0}))
    second = worker((1.0, set()), (7.0, {1}))

    assert closed(0, 2.0, first, second) == 0.5
    assert closed(1, 2.0, first, second) == 2.0
    assert pauses(frozenset({0}), frozenset({0, 1}), 2.0, first, second) == {
        "stays": 0.5,
        "moves": 2.0,
    }


def test_what_was_before_does_not_count() -> None:
    first = worker((0.0, set()), (3.0, {0}), (6.0, set()), (7.0, {0}))

    assert closed(0, 2.0, first) == 2.0
    assert closed(0, 4.0, first) == 1.0


@pytest.mark.slow
def test_a_worker_joins_and_leaves() -> None:
    status, [figures] = run("bench.rebalance", "--tasks", "4")

    assert status == 0
    assert figures["tasks"] == 4
    assert figures["join"]["moves"] > 0
    assert figures["leave"]["moves"] > 0
    assert figures["opening"] > 0
    assert figures["sockets"] > 4
