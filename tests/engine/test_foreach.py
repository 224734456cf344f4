"""`foreach_batch` without a broker: which batches a function is given, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamapp import App, Batch, Batches, ErrorPolicy, OnError
from streamapp.engine.checkpoint import Slice
from streamapp.engine.foreach import INTENT_KEY, ForeachBatch, Intent, decode_intent
from streamapp.engine.outbox import Outgoing
from streamapp.errors import AgentFailed, AgentStopped, ConfigurationError, StoreError
from tests.engine.tasks import Record, TaskOnTrial, an_app, json_records

Given = list[tuple[str, list[Any]]]


@pytest.fixture
def app() -> App:
    return an_app("shop")


def declare(
    app: App, given: Given, fail: Callable[[Batch], None] = lambda batch: None, **options: Any
) -> ForeachBatch:
    """A function that remembers what it was given, and fails when it is told to."""
    orders = app.topic("orders", value_type=int, partitions=1)

    @app.foreach_batch(orders, name="keep", **options)
    async def keep(batch: Batch) -> None:
        """Keep the orders."""
        given.append((batch.id, batch.values))
        fail(batch)

    return keep


# ------------------------------------------------------------------ in the harness


async def test_a_function_is_given_each_batch_once(app: App) -> None:
    given: Given = []
    declare(app, given)
    async with app.test() as t:
        await t.send("orders", 1)
        async with t.batch():
            await t.send("orders", 2)
            await t.send("orders", 3)

    assert given == [("orders:0:0-1", [1]), ("orders:0:1-3", [2, 3])]


async def test_after_a_crash_before_the_commit_the_same_batch_comes_again(app: App) -> None:
    given: Given = []
    declare(app, given)
    async with app.test() as t:
        t.crash("before-commit")
        t.cut_every(2)
        async with t.batch():
            for value in (1, 2, 3):
                await t.send("orders", value)

    first = ("orders:0:0-2", [1, 2])
    assert given == [first, first, ("orders:0:2-3", [3])]


async def test_the_same_batch_comes_again_wherever_batches_are_cut_by_now(app: App) -> None:
    given: Given = []
    declare(app, given, fails_once())
    async with app.test() as t:
        t.cut_every(2)
        with pytest.raises(ConnectionError):
            async with t.batch():
                for value in (1, 2, 3):
                    await t.send("orders", value)
        t.cut_every(None)
        await t.restart()
        await t.send("orders", 4)

    first = ("orders:0:0-2", [1, 2])
    assert given == [first, first, ("orders:0:2-4", [3, 4])]


async def test_after_a_crash_behind_the_commit_it_does_not_come_again(app: App) -> None:
    given: Given = []
    declare(app, given)
    async with app.test() as t:
        t.crash("after-commit")
        await t.send("orders", 1)
        await t.send("orders", 2)

    assert given == [("orders:0:0-1", [1]), ("orders:0:1-2", [2])]


async def test_at_most_once_gives_it_once_and_never_again(app: App) -> None:
    given: Given = []
    declare(app, given)
    async with app.test(processing_guarantee="at_most_once") as t:
        t.crash("before-commit")
        await t.send("orders", 1)
        await t.send("orders", 2)

    assert given == [("orders:0:0-1", [1]), ("orders:0:1-2", [2])]


async def test_what_it_sends_belongs_to_the_batch(app: App) -> None:
    orders, receipts = app.topic("orders", value_type=int), app.topic("receipts", value_type=str)

    @app.foreach_batch(orders)
    async def keep(batch: Batch) -> None:
        await receipts.send(value=batch.id)

    async with app.test(partitions=1) as t:
        t.crash("before-commit")
        await t.send(orders, 1)

        assert [sent.value for sent in t.output(receipts)] == ["orders:0:0-1"]


async def test_records_that_cannot_be_read_go_to_the_dead_letters(app: App) -> None:
    given: Given = []
    declare(app, given)
    async with app.test() as t:
        async with t.batch():
            await t.send("orders", 1)
            await t.send("orders", b"?")
        await t.send("orders", b"!")

        assert [letter.offset for letter in t.dead_letters] == [1, 2]
    assert given == [("orders:0:0-2", [1])]


async def test_it_reads_a_key_by_without_its_marks(app: App) -> None:
    given: Given = []
    orders = app.topic("orders", value_type=str)
    by_city = app.key_by("by-city", key_type=str, value_type=int)

    @app.batch_agent(orders)
    async def route(batches: Batches) -> None:
        async for batch in batches:
            for city in batch:
                by_city.add(city, 1)

    @app.foreach_batch(by_city)
    async def keep(batch: Batch) -> None:
        given.append((batch.id, batch.keys))

    async with app.test(partitions=1) as t:
        await t.send(orders, "Delft")
        t.crash("before-commit")
        await t.send(orders, "Gouda")

    assert [keys for _, keys in given] == [["Delft"], ["Gouda"]]


# ------------------------------------------------------------------ errors


def fails_once() -> Callable[[Batch], None]:
    failures = [ConnectionError("the database is away")]

    def fail(batch: Batch) -> None:
        if failures:
            raise failures.pop()

    return fail


async def test_what_it_raises_brings_the_same_batch_again(app: App) -> None:
    given: Given = []
    declare(app, given, fails_once())
    async with app.test(error_policies=True) as t:
        async with t.batch():
            await t.send("orders", 1)
            await t.send("orders", 2)

        assert not t.dead_letters
    assert given == [("orders:0:0-2", [1, 2])] * 2


def out_of_order(batch: Batch) -> None:
    raise LookupError("there is no such table")


async def test_no_record_is_to_blame_for_what_it_raises(app: App) -> None:
    given: Given = []
    declare(app, given, out_of_order)
    async with app.test(error_policies=True) as t:
        with pytest.raises(AgentFailed, match=r"keep in orders:0:0-2 \(LookupError.*10 times"):
            async with t.batch():
                await t.send("orders", 1)
                await t.send("orders", 2)

        assert not t.dead_letters
    assert given == [("orders:0:0-2", [1, 2])] * 10


async def test_a_batch_may_be_skipped_as_a_whole(app: App) -> None:
    given: Given = []
    declare(app, given, out_of_order, errors={LookupError: OnError.SKIP_BATCH})
    async with app.test(error_policies=True) as t:
        async with t.batch():
            await t.send("orders", 1)
            await t.send("orders", 2)
        await t.send("orders", 3)

        assert [letter.offset for letter in t.dead_letters] == [0, 1, 2]
    assert given == [("orders:0:0-2", [1, 2]), ("orders:0:2-3", [3])]


# ------------------------------------------------------------------ declaring


def test_a_function_is_async(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"async def keep\(batch\)"):

        @app.foreach_batch("orders")
        def keep(batch: Batch) -> None: ...  # type: ignore[arg-type]


def test_tables_and_key_bys_are_refused(app: App) -> None:
    totals = app.BatchTable("totals", default=int)
    by_city = app.key_by("by-city")

    with pytest.raises(ConfigurationError, match="works with shop-by-city-by-key, totals"):

        @app.foreach_batch("orders")
        async def keep(batch: Batch) -> None:
            totals["a"] += 1
            by_city.add("a")


@pytest.mark.parametrize(
    "errors",
    [{ValueError: OnError.SKIP_RECORD}, ErrorPolicy(then=OnError.SKIP_RECORD)],
)
def test_single_records_are_not_skipped(app: App, errors: Any) -> None:
    with pytest.raises(ConfigurationError, match="SKIP_RECORD"):
        declare(app, [], errors=errors)


def test_a_name_is_given_once(app: App) -> None:
    declare(app, [])

    with pytest.raises(ConfigurationError, match="two batch agents named keep"):
        declare(app, [])


def test_its_topology_is_its_own(app: App) -> None:
    declare(app, [])

    @app.batch_agent("orders", topology="keep")
    async def other(batches: Batches) -> None: ...

    with pytest.raises(ConfigurationError, match="a topology of its own"):
        app.topologies()


# ------------------------------------------------------------------ a task that finds an intent


def intent(**fields: Any) -> Intent:
    defaults = {"topic": "orders", "partition": 0, "from_offset": 0, "until_offset": 2}
    return Intent(**{"sequence": 1, "records": 2, **defaults, **fields})


def on_trial(app: App, tmp_path: Path, found: Intent) -> TaskOnTrial:
    trial = TaskOnTrial(app, tmp_path)
    trial.log.append([Outgoing("shop-keep-intents", INTENT_KEY, found.encode(), 0)], 0, 0)
    return trial


async def test_less_than_what_was_presented_is_not_presented(app: App, tmp_path: Path) -> None:
    given: Given = []
    declare(app, given)
    trial = on_trial(app, tmp_path, intent(until_offset=3, records=3))
    await trial.moved()

    with pytest.raises(AgentStopped, match="orders:0:0-3 again as it was, and 2 of its 3 records"):
        await trial.task.process([Slice("orders", 0, 3, json_records([7], start=2))])

    assert not given
    await trial.close()


async def test_what_could_not_be_read_at_first_stays_out(app: App, tmp_path: Path) -> None:
    given: Given = []
    declare(app, given)
    trial = on_trial(app, tmp_path, intent(until_offset=3, records=3, unreadable=[0, 2]))
    await trial.moved()

    records = [*json_records([1, 2]), Record(2, value=b"?")]
    checkpoint = await trial.task.process([Slice("orders", 0, 3, records)])

    assert given == [("orders:0:0-3", [2])]
    reasons = [dict(letter.headers)["streamapp-error"] for letter in checkpoint.outputs]
    assert [b"first presented" in reason for reason in reasons] == [True, False]
    await trial.close()


async def test_an_intent_of_checkpoints_that_are_gone_is_refused(app: App, tmp_path: Path) -> None:
    declare(app, [])
    trial = on_trial(app, tmp_path, intent(sequence=5, from_offset=4, until_offset=6))

    with pytest.raises(StoreError, match="its last checkpoint is 0, at offset 0"):
        await trial.moved()


def test_an_intent_of_another_format_is_refused() -> None:
    with pytest.raises(StoreError, match="the intent has format 2"):
        decode_intent(intent(format=2).encode(), "the intent")
