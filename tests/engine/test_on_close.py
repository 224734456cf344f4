"""`on_close`: a function called with each closed window, in the transaction that closes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamapp import App, Batches, Count, Window
from streamapp.engine.key_by import is_mark, read_mark
from streamapp.errors import ConfigurationError
from tests.engine.tasks import TaskOnTrial, an_app, json_records

SECOND = 1000


def ranking(*, failing: list[str] | None = None) -> App:
    """Values counted in windows of 10 s; what closes goes to the owner of the window's total."""
    app = an_app(engine={"idle_timeout": 10.0})
    events = app.topic("events")
    windows = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(10)
    seen = app.BatchTable("seen", default=int, key_type=str)
    totals = app.key_by("totals", aggregate=Count(), pane=10, key_type=str)
    closed = app.topic("closed", key_type=str)
    sums = app.BatchTable("sums", aggregate=Count(), key_type=str).tumbling(10)

    @app.batch_agent(events)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                windows[value] += 1

    @windows.on_close
    def add_up(window: Window, counts: dict[str, int]) -> None:
        for key, found in counts.items():
            seen[key] += found
            totals.add("all", found, at=window.end - 1)
            closed.send_soon(key=key, value=[window.start, seen[key]])
        if failing:
            raise RuntimeError(failing.pop())

    @app.batch_agent(totals)
    async def sum_up(batches: Batches) -> None:
        async for batch in batches:
            for key, found in batch.items():
                sums[key] += found

    @sums.on_close
    def publish(window: Window, found: dict[str, int]) -> None:
        closed.send_soon(key="sum", value=[window.start, found["all"]])

    return app


def data(outputs: list[Any], topic: str) -> list[tuple[bytes, bytes]]:
    return [(o.key, o.value) for o in outputs if o.topic == topic and not is_mark(o)]


async def test_its_windows_come_once_and_in_order_with_all_that_follows(tmp_path: Path) -> None:
    trial = TaskOnTrial(ranking(), tmp_path, topology="count")
    await trial.step(json_records(["a", "a"], 0, at=1_000))
    await trial.step(json_records(["a"], 2, at=12_000))
    checkpoint = await trial.step(json_records(["b"], 3, at=31_000))
    assert data(checkpoint.outputs, "closed") == [(b"a", b"[10000,3]")]
    assert data(trial.committed, "closed") == [(b"a", b"[0,2]"), (b"a", b"[10000,3]")]
    assert trial.task.tables["seen"]["a"] == 3
    await trial.moved()
    assert trial.task.tables["seen"]["a"] == 3
    assert data((await trial.step(json_records(["b"], 4, at=32_000))).outputs, "closed") == []
    await trial.close()


async def test_what_is_sent_comes_before_the_word_of_how_far_the_task_is(tmp_path: Path) -> None:
    trial = TaskOnTrial(ranking(), tmp_path, topology="count")
    await trial.step(json_records(["a"], 0, at=1_000))
    checkpoint = await trial.step(json_records(["a"], 1, at=12_000))
    sent = [o for o in checkpoint.outputs if o.topic == "app-totals-by-key"]
    assert [is_mark(o) for o in sent] == [False, True, True, True, True]
    assert (sent[0].key, sent[0].value, sent[0].timestamp) == (b"all", b"1", 0)
    await trial.close()


async def test_a_failure_takes_back_all_of_it_and_the_window_closes_again(tmp_path: Path) -> None:
    trial = TaskOnTrial(ranking(failing=["no"]), tmp_path, topology="count")
    await trial.step(json_records(["a"], 0, at=1_000))
    with pytest.raises(RuntimeError, match="no"):
        await trial.process(json_records(["a"], 1, at=12_000))
    await trial.task.abort()
    assert trial.task.tables["seen"]["a"] == 0
    checkpoint = await trial.step(json_records(["a"], 1, at=12_000))
    assert data(checkpoint.outputs, "closed") == [(b"a", b"[0,1]")]
    await trial.close()


async def test_a_task_without_records_is_idle_only_when_its_windows_are_closed(
    tmp_path: Path,
) -> None:
    trial = TaskOnTrial(ranking(), tmp_path, topology="count")
    await trial.step(json_records(["a"], 0, at=1_000))
    trial.now += 10 * SECOND
    assert not trial.task.due({"events"}), "its window is open, and time alone says nothing new"
    trial.now += 10 * SECOND
    assert trial.task.due({"events"})
    checkpoint = await trial.step(caught_up=True)
    assert data(checkpoint.outputs, "closed") == [(b"a", b"[0,1]")]
    marks = [read_mark(o) for o in checkpoint.outputs if is_mark(o)]
    assert {mark.idle for mark in marks} == {True}
    await trial.close()


async def test_windows_behind_windows_add_up_over_all_partitions() -> None:
    async with ranking().test() as t:
        for second in range(95):
            await t.send("events", "xyz"[second % 3], at=second * SECOND, partition=second % 4)
        await t.advance(60)
        sums = {r.value[0]: r.value[1] for r in t.output("closed") if r.key == "sum"}
        assert sums == {start * SECOND: 10 for start in range(0, 90, 10)} | {90 * SECOND: 5}
        assert t.late == 0


async def test_a_table_has_one_such_function() -> None:
    app = an_app()
    table = app.BatchTable("windows", aggregate=Count()).tumbling(10)

    def first(window: Window, values: dict[Any, Any]) -> None: ...

    table.on_close(first)
    with pytest.raises(ConfigurationError, match="closed by first already"):
        table.on_close(first)
