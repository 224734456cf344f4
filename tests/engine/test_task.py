"""A task without a transport: what a checkpoint holds, and what is left of one that failed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamapp import App, Batches, Count
from streamapp.engine.checkpoint import WindowRecord
from streamapp.engine.key_by import is_mark, read_mark
from streamapp.engine.marker import decode_progress
from streamapp.errors import RecordError, StoreError, TableError
from tests.engine.tasks import Record, TaskOnTrial, an_app, json_records

SECOND = 1000


class Fails(Exception):
    """The agent's own error."""


@pytest.fixture
async def on_trial(tmp_path: Path) -> AsyncIterator[Callable[..., TaskOnTrial]]:
    """Make tasks that are closed at the end."""
    made: list[TaskOnTrial] = []

    def make(app: App, **options: Any) -> TaskOnTrial:
        made.append(TaskOnTrial(app, tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for trial in made:
        await trial.close()


Make = Callable[..., TaskOnTrial]


def counting() -> tuple[App, Any]:
    """An application that counts values, sends each total, and fails where it is told to."""
    app = an_app()
    events = app.topic("events")
    totals = app.BatchTable("totals", default=int, key_type=str)
    out = app.topic("out", key_type=str)

    @app.batch_agent(events)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                if value == "forget":
                    for key in list(totals):
                        del totals[key]
                    continue
                totals[value] += 1
                await out.send(key=value, value=totals[value])
                if value == "fail":
                    raise Fails

    return app, totals


# ---------------------------------------------------------------------- a checkpoint


async def test_a_checkpoint_has_outputs_state_and_where_the_sources_stand(on_trial: Make) -> None:
    trial = on_trial(counting()[0])
    checkpoint = await trial.process(["a", "b", "a"])
    assert [(r.topic, r.key, r.value) for r in checkpoint.outputs] == [
        ("out", b"a", b"1"),
        ("out", b"b", b"1"),
        ("out", b"a", b"2"),
    ]
    (writes,) = checkpoint.writes
    assert sorted(writes.puts) == [(b"a", b"2"), (b"b", b"1")]
    assert checkpoint.marker.sources == {"events": 3}
    assert checkpoint.marker.sequence == 1


async def test_its_changelog_goes_to_the_tasks_partition(on_trial: Make) -> None:
    trial = on_trial(counting()[0], partition=2)
    await trial.step(["a"])
    checkpoint = await trial.process(["forget", "b"])
    records = [
        (r.topic, r.key, r.value, r.partition) for r in checkpoint.changelog(trial.topology, 2)
    ]
    assert records == [
        ("app-totals-changelog", b"b", b"1", 2),
        ("app-totals-changelog", b"a", None, 2),
    ]


async def test_nothing_is_stored_before_the_transaction_is_known_to_be_committed(
    on_trial: Make,
) -> None:
    trial = on_trial(counting()[0])
    before = trial.task.store.progress
    checkpoint = await trial.process(["a"])
    assert trial.task.store.get(b"totals\0a") is None
    assert trial.task.store.progress == before
    trial.commit(checkpoint)
    assert trial.task.store.get(b"totals\0a") == b"1"


async def test_data_and_progress_reach_the_store_together(on_trial: Make) -> None:
    trial = on_trial(counting()[0])
    await trial.step(["a", "b"])
    raw = trial.task.store.progress
    assert raw is not None
    progress = decode_progress(raw, "the store")
    assert progress.marker.sources == {"events": 2}
    assert progress.positions == {"totals": 2}


async def test_its_ledger_entry_says_what_happened(on_trial: Make) -> None:
    trial = on_trial(counting()[0], partition=1)
    await trial.step(["a"])
    checkpoint = await trial.process(
        [Record(1, 0, None, b'"a"'), Record(2, 0, None, b"{"), Record(3, 0, None, b'"b"')]
    )
    entry = checkpoint.entry
    assert (entry.topology, entry.partition, entry.sequence) == ("count", 1, 2)
    assert (entry.outputs, entry.changes, entry.dead_letters, entry.late) == (3, 2, 1, 0)
    assert entry.previous_commit == 1.0
    (batch,) = entry.batches
    assert (batch.topic, batch.partition, batch.from_offset, batch.until_offset) == (
        "events",
        1,
        1,
        4,
    )
    assert batch.records == 3


async def test_a_state_too_large_for_its_changelog_is_named(on_trial: Make) -> None:
    app = an_app()
    events = app.topic("events")
    table = app.BatchTable("table")

    @app.batch_agent(events)
    async def keep(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                table["k"] = value

    trial = on_trial(app, limits={"app-table-changelog": 1000})
    await trial.step(["x" * 500])
    with pytest.raises(RecordError, match=r"app-table-changelog with key b'\"k\"'"):
        await trial.process(["x" * 2000])


# ---------------------------------------------------------------------- a batch that failed


async def test_a_batch_that_is_rolled_back_leaves_no_trace(on_trial: Make) -> None:
    """Whatever fails in between, the checkpoints are those of a task where nothing failed."""
    random_ = random.Random(7)
    batches = [
        [random_.choice("abcdefgh") for _ in range(random_.randrange(1, 6))] for _ in range(30)
    ]
    app = an_app()
    events = app.topic("events")
    totals = app.BatchTable("totals", default=int, key_type=str)
    windows = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(1)
    out, final = app.topic("out"), app.topic("final")
    windows.emit_final(final).emit_updates(final)
    by_key = app.key_by("k", aggregate=Count(), key_type=str)
    broken = False

    @app.batch_agent(events)
    async def work(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                totals[value] += 1
                windows[value] += 1
                by_key.add(value)
                if value == "a":
                    totals.pop("b", None)
                await out.send(value=totals[value])
            if broken:
                raise Fails

    @app.batch_agent(by_key)
    async def read(batches: Batches) -> None:
        async for _ in batches:
            pass

    smooth, rough = on_trial(app, topology="work"), on_trial(app, topology="work")
    for number, values in enumerate(batches):
        smooth.now = rough.now = 1_000_000 + number * 400
        expected = await smooth.step(values)
        if random_.random() < 0.5:
            broken = True
            junk = json_records("abcz", rough.task.marker.sources["events"], rough.now + 5_000)
            with pytest.raises(Fails):
                await rough.process(junk)
            await rough.task.abort()
            broken = False
        if random_.random() < 0.5:
            # Processed to the end, but the transaction failed; the next cut is another one.
            ahead = json_records("abcz", rough.task.marker.sources["events"], rough.now + 5_000)
            await rough.process(random_.choice([values, ahead]))
            await rough.task.abort()
        found = await rough.process(values)
        rough.commit(found)
        # The keys of one window come in no particular order.
        assert sorted(found.outputs, key=repr) == sorted(expected.outputs, key=repr)
        assert _sorted(found.writes) == _sorted(expected.writes)
        # Each has names of its own.
        named = msgspec.structs.replace(
            found.marker,
            incarnation=expected.marker.incarnation,
            tables=expected.marker.tables,
        )
        assert named == expected.marker


def _sorted(writes: Any) -> Any:
    return [(w.table, sorted(w.puts), sorted(w.deletes), sorted(w.ranges)) for w in writes]


async def test_dead_letters_of_a_batch_that_failed_are_not_counted_twice(on_trial: Make) -> None:
    trial = on_trial(counting()[0])
    records = [Record(0, 0, None, b"{"), Record(1, 0, None, b'"fail"')]
    with pytest.raises(Fails):
        await trial.process(records)
    await trial.task.abort()
    checkpoint = await trial.process([Record(0, 0, None, b"{"), Record(1, 0, None, b'"a"')])
    assert checkpoint.entry.dead_letters == 1
    assert [r.topic for r in checkpoint.outputs] == ["app-dead-letters", "out"]


# ---------------------------------------------------------------------- at most once


async def test_skipping_moves_the_offsets_and_nothing_else(on_trial: Make) -> None:
    trial = on_trial(counting()[0])
    await trial.step(["a"])
    part = trial.slice(["b", "c"])
    skipping = trial.task.skipping([part])
    assert skipping.marker.sources == {"events": 3}
    assert skipping.marker.sequence == 2
    assert (skipping.outputs, skipping.writes) == ([], [])
    assert skipping.entry.kind == "offsets"
    assert [(b.from_offset, b.until_offset) for b in skipping.entry.batches] == [(1, 3)]
    trial.commit(skipping)
    checkpoint = await trial.task.process([part])
    assert checkpoint.marker.sources == {"events": 3}
    assert checkpoint.marker.sequence == 3
    assert len(checkpoint.outputs) == 2


async def test_a_batch_that_was_skipped_and_lost_is_not_seen_again(on_trial: Make) -> None:
    trial = on_trial(counting()[0])
    part = trial.slice(["a", "fail"])
    trial.commit(trial.task.skipping([part]))
    with pytest.raises(Fails):
        await trial.task.process([part])
    await trial.task.abort()
    await trial.moved()
    await trial.step(["a"])
    assert trial.task.marker.sources == {"events": 3}
    assert dict(trial.task.tables["totals"].items()) == {"a": 1}  # type: ignore[union-attr]


async def test_what_upstream_says_is_heard_though_the_batch_is_lost(on_trial: Make) -> None:
    app, _ = windowed_behind_key_by()
    upstream, downstream = on_trial(app, topology="send"), on_trial(app, topology="count")
    await upstream.step(["a"])
    marks = [r for r in upstream.committed if is_mark(r) and r.partition == 0]
    records = [Record(i, r.timestamp or 0, r.key, r.value, r.headers) for i, r in enumerate(marks)]
    part = downstream.slice(records)
    downstream.commit(downstream.task.skipping([part]))
    await downstream.task.abort()
    assert downstream.task.marker.marks == {"app-k-by-key<send/0": 1_000_000}


# ---------------------------------------------------------------------- another worker


async def test_what_the_changelog_holds_is_what_the_tables_hold(on_trial: Make) -> None:
    """Any history of writes and deletes, taken over at any time, is the history of one worker."""
    random_ = random.Random(11)
    app, _ = counting()
    trial = on_trial(app)
    model: dict[str, int] = {}
    for _ in range(60):
        values = random_.choices([*"abcdefg", "forget"], k=random_.randrange(1, 8))
        for value in values:
            if value == "forget":
                model = {}
            else:
                model[value] = model.get(value, 0) + 1
        await trial.step(values)
        if random_.random() < 0.3:
            await trial.moved()
        assert dict(trial.task.tables["totals"].items()) == model  # type: ignore[union-attr]


async def test_final_results_come_once_though_the_task_moves(on_trial: Make) -> None:
    """Windows closed by data and by the clock, with a move after any checkpoint: as without."""
    app = an_app(engine={"idle_timeout": 2.0})
    events = app.topic("events", grace=1)
    final = app.topic("final")
    windows = (
        app.BatchTable("windows", aggregate=Count(), key_type=str)
        .hopping(4, 2, expires=10)
        .emit_final(final)
    )

    @app.batch_agent(events)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                windows[value] += 1

    random_ = random.Random(3)
    expected: dict[tuple[str, int], int] = {}
    trial = on_trial(app)
    closed = 0
    for _ in range(150):
        if random_.random() < 0.1:
            await trial.moved()
        trial.now += random_.randrange(0, 900)
        at = trial.now - random_.randrange(0, 1000)
        start = at - at % 2000
        for window in (start - 2000, start):
            key = ("k", window)
            expected[key] = expected.get(key, 0) + 1
        records = json_records(["k"], trial.task.marker.sources["events"], at)
        await trial.step(records)
    for _ in range(30):
        trial.now += 1000
        if trial.task.due({"events"}):
            await trial.step(caught_up=True)
            closed += 1
        if random_.random() < 0.2:
            # A move begins the idle timeout anew; what is closed stays closed.
            await trial.moved()
    found = [msgspec.json.decode(r.value or b"", type=WindowRecord) for r in trial.committed]
    assert closed
    assert all(record.final for record in found)
    assert {(r.key, r.start): r.value for r in found} == expected
    assert len(found) == len(expected)


# ---------------------------------------------------------------------- windows and time


def windowed(**options: Any) -> tuple[App, Any]:
    app = an_app(engine={"idle_timeout": 10.0})
    events = app.topic("events", event_time="time", **options)
    table = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(10)

    @app.batch_agent(events)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for event in batch:
                table[event["key"]] += 1

    return app, table


def event(key: str, second: float) -> dict[str, Any]:
    return {"key": key, "time": round(second * SECOND)}


def results(records: Any) -> list[tuple[str, int, int, bool]]:
    found = [msgspec.json.decode(r.value or b"", type=WindowRecord) for r in records]
    return [(r.key, r.start // SECOND, r.value, r.final) for r in found]


async def test_a_window_is_final_once_the_watermark_has_passed_its_end(on_trial: Make) -> None:
    app, table = windowed(grace=5)
    table.emit_final(app.topic("final"))
    trial = on_trial(app)
    await trial.step([event("a", 1), event("b", 2), event("a", 14.9)])
    assert trial.committed == []
    await trial.step([event("c", 15)])
    assert results(trial.committed) == [("a", 0, 1, True), ("b", 0, 1, True)]
    assert [(r.topic, r.key) for r in trial.committed] == [("final", b"a"), ("final", b"b")]


async def test_no_record_is_at_hand_between_batches(on_trial: Make) -> None:
    app = an_app()
    table = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(10)

    @app.batch_agent(app.topic("events"))
    async def first(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                table[value] += 1
                break

    trial = on_trial(app)
    await trial.step(["a", "b"])
    with pytest.raises(TableError, match="no record at hand"):
        trial.task.tables["windows"].now()  # type: ignore[union-attr]


async def test_windows_of_another_shape_are_refused_over_old_panes(on_trial: Make) -> None:
    trial = on_trial(windowed()[0])
    await trial.step([event("a", 1)])
    app = an_app()
    table = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(20)

    @app.batch_agent(app.topic("events"))
    async def count(batches: Batches) -> None:
        async for batch in batches:
            table["n"] += len(batch)

    with pytest.raises(StoreError, match="10000 ms every 10000 ms, it is declared with 20000"):
        on_trial(app).task.restored(trial.task.marker, {})


async def test_updates_are_the_open_windows_that_the_batch_changed(on_trial: Make) -> None:
    app, table = windowed()
    table.emit_updates(app.topic("updates"))
    trial = on_trial(app)
    first = await trial.step([event("a", 1), event("b", 2), event("a", 3)])
    assert results(first.outputs) == [("a", 0, 2, False), ("b", 0, 1, False)]
    # `a` closes the first window: that is no update of it.
    second = await trial.step([event("b", 4), event("a", 15)])
    assert results(second.outputs) == [("a", 10, 1, False)]


async def test_a_late_record_is_counted_and_goes_to_its_topic_as_it_is(on_trial: Make) -> None:
    app, table = windowed()
    table.late_to(app.topic("late"))
    trial = on_trial(app)
    await trial.step([event("a", 25)])
    late = Record(1, 77, b"key", b'{"key": "a", "time": 3000}', [("h", b"x")])
    checkpoint = await trial.step([late, Record(2, 78, None, b'{"key": "a", "time": 26000}')])
    assert checkpoint.entry.late == 1
    (found,) = checkpoint.outputs
    assert (found.topic, found.key, found.value) == ("late", b"key", late.value)
    assert list(found.headers) == [("h", b"x"), ("streamapp-late-for", b"windows events:0:1")]
    assert (await trial.step([event("a", 27)])).entry.late == 0


async def test_a_late_record_too_large_for_its_topic_is_a_dead_letter(on_trial: Make) -> None:
    app, table = windowed()
    table.late_to(app.topic("late"))
    trial = on_trial(app, limits={"late": 150})
    await trial.step([event("a", 25)])
    checkpoint = await trial.step([event("a", 3)])
    assert [r.topic for r in checkpoint.outputs] == ["app-dead-letters"]


async def test_time_alone_is_due_when_it_closes_a_window(on_trial: Make) -> None:
    app, table = windowed()
    table.emit_final(app.topic("final"))
    trial = on_trial(app)
    await trial.step([event("a", 3)])
    assert not trial.task.due({"events"})
    trial.now += 10 * SECOND  # idle now, and alone from here on
    assert not trial.task.due({"events"})
    trial.now += 6_999
    assert not trial.task.due({"events"})
    trial.now += 1
    assert not trial.task.due(set()), "there are records to come"
    assert trial.task.due({"events"})
    await trial.step(caught_up=True)
    assert results(trial.committed) == [("a", 0, 1, True)]
    assert not trial.task.due({"events"})


async def test_time_alone_is_never_due_without_windows(on_trial: Make) -> None:
    trial = on_trial(counting()[0])
    await trial.step(["a"])
    trial.now += 10**9
    assert not trial.task.due({"events"})


# ---------------------------------------------------------------------- to the tasks downstream


def windowed_behind_key_by() -> tuple[App, Any]:
    app = an_app(engine={"idle_timeout": 10.0})
    events = app.topic("events")
    by_key = app.key_by("k", aggregate=Count(), pane=10, key_type=str)
    table = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(10)

    @app.batch_agent(events)
    async def send(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                by_key.add(value)

    @app.batch_agent(by_key)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for key, found in batch.items():
                table[key] += found

    return app, table


async def test_downstream_hears_of_the_watermark_in_every_partition_and_only_news(
    on_trial: Make,
) -> None:
    app, _ = windowed_behind_key_by()
    trial = on_trial(app, topology="send", partition=3)

    def marks(checkpoint: Any) -> list[tuple[int | None, Any]]:
        return [(r.partition, read_mark(r)) for r in checkpoint.outputs if is_mark(r)]

    first = marks(await trial.step(json_records(["a"], 0, at=5_000)))
    assert [partition for partition, _ in first] == [0, 1, 2, 3]
    assert {mark for _, mark in first} == {("send/3", 5_000, False)}
    assert marks(await trial.step(json_records(["a"], 1, at=4_000))) == []
    assert len(marks(await trial.step(json_records(["a"], 2, at=6_000)))) == 4


async def test_marks_of_a_batch_that_failed_are_said_again(on_trial: Make) -> None:
    app, _ = windowed_behind_key_by()
    trial = on_trial(app, topology="send")
    records = json_records(["a"], 0, at=5_000)
    first = await trial.process(records)
    await trial.task.abort()
    assert (await trial.process(records)).outputs == first.outputs


async def test_a_new_owner_says_where_it_stands(on_trial: Make) -> None:
    """It cannot know whether downstream knows an upstream of its name."""
    app, _ = windowed_behind_key_by()
    trial = on_trial(app, topology="send")
    await trial.step(json_records(["a"], 0, at=5_000))
    await trial.moved()
    assert trial.task.due(set())
    checkpoint = await trial.step()
    assert [read_mark(r).time for r in checkpoint.outputs] == [5_000] * 4
    assert not trial.task.due(set())


async def test_a_task_that_opens_again_says_where_it_stands(on_trial: Make) -> None:
    app, _ = windowed_behind_key_by()
    trial = on_trial(app, topology="send")
    await trial.step(json_records(["a"], 0, at=5_000))
    assert not trial.task.due(set())
    trial.task.restored(trial.task.marker, trial.task.positions)
    assert trial.task.due(set())


async def test_a_task_without_records_says_that_it_is_idle(on_trial: Make) -> None:
    app, _ = windowed_behind_key_by()
    trial = on_trial(app, topology="send")
    assert not trial.task.due({"events"})
    trial.now += 10 * SECOND
    assert trial.task.due({"events"})
    checkpoint = await trial.step(caught_up=True)
    assert {read_mark(r) for r in checkpoint.outputs} == {("send/0", None, True)}
    assert not trial.task.due({"events"})


async def test_marks_are_no_records_to_the_agent_and_close_its_windows(on_trial: Make) -> None:
    app, table = windowed_behind_key_by()
    table.emit_final(app.topic("final"))
    upstreams = [on_trial(app, topology="send", partition=p) for p in range(4)]
    downstream = on_trial(app, topology="count")
    sent = 0

    async def pass_on(upstream: TaskOnTrial) -> Any:
        nonlocal sent
        found = [r for r in upstream.committed if r.partition in (0, None)]
        upstream.committed.clear()
        records = [
            Record(sent + i, r.timestamp or 0, r.key, r.value, r.headers)
            for i, r in enumerate(found)
        ]
        sent += len(records)
        return await downstream.step(records)

    for number, upstream in enumerate(upstreams):
        await upstream.step(json_records(["a"], 0, at=1_000 * number))
        first = await pass_on(upstream)
        assert [b.records for b in first.entry.batches] == [1]
        await upstream.step(json_records(["b"], 1, at=12_000))
    for upstream in upstreams[:-1]:
        assert (await pass_on(upstream)).outputs == []
    last = await pass_on(upstreams[-1])
    assert results(last.outputs) == [("a", 0, 4, True)]


async def test_partials_without_panes_carry_the_latest_event_time_of_their_batch(
    on_trial: Make,
) -> None:
    app = an_app()
    events = app.topic("events")
    by_key = app.key_by("k", aggregate=Count(), key_type=str)

    @app.batch_agent(events)
    async def send(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                by_key.add(value)

    @app.batch_agent(by_key)
    async def read(batches: Batches) -> None:
        async for _ in batches:
            pass

    trial = on_trial(app, topology="send")
    first = await trial.step(json_records(["a"], 0, at=9_000) + json_records(["a"], 1, at=5_000))
    second = await trial.step(json_records(["a"], 2, at=7_000))
    found = [[r.timestamp for r in c.outputs if not is_mark(r)] for c in (first, second)]
    assert found == [[9_000], [7_000]]
