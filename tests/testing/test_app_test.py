"""What the harness promises to whoever tests agents with it: one promise a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from streamapp import App, Batches, Count, Topic, WindowedTable
from streamapp.errors import ConfigurationError, RecordError, StreamappError, TableError
from streamapp.state.table import BatchTable
from streamapp.state.windows import Window
from streamapp.testing import AppTest
from tests.engine.tasks import an_app


class Fails(Exception):
    """The agent's own error."""


class Shop:
    """An application with all that a test can look at. It is made once, as modules make theirs."""

    def __init__(self) -> None:
        self.app: App = an_app("shop", engine={"idle_timeout": 10.0})
        app = self.app
        self.orders: Topic = app.topic("orders", key_type=str, partitions=4)
        self.totals_out: Topic = app.topic("totals-out", key_type=str, value_type=int)
        self.windows_out: Topic = app.topic("windows-out")
        self.by_item = app.key_by("items", aggregate=Count(), pane=10, key_type=str)
        self.totals: BatchTable = app.BatchTable("totals", default=int, key_type=str)
        self.seen: BatchTable = app.BatchTable("seen", default=int, key_type=str)
        self.windows: WindowedTable = (
            app.BatchTable("windows", aggregate=Count(), key_type=str)
            .tumbling(10, expires=100)
            .emit_final(self.windows_out)
        )
        self.batches: list[list[Any]] = []
        self.fail = False
        shop = self
        seen, by_item, totals, windows = self.seen, self.by_item, self.totals, self.windows
        totals_out = self.totals_out

        @app.batch_agent(self.orders)
        async def split(batches: Batches) -> None:
            async for batch in batches:
                shop.batches.append(list(batch.values))
                for item in batch:
                    seen[item] += 1
                    by_item.add(item)
                    if shop.fail:
                        raise Fails

        @app.batch_agent(self.by_item)
        async def count(batches: Batches) -> None:
            async for batch in batches:
                for item, n in batch.items():
                    totals[item] += n
                    windows[item] += n
                    await totals_out.send(key=item, value=totals[item])

        self.split, self.count = split, count


shop = Shop()


@pytest.fixture(autouse=True)
def anew() -> None:
    shop.batches, shop.fail = [], False


@pytest.fixture
async def t() -> AsyncIterator[AppTest]:
    async with shop.app.test() as t:
        yield t


def values(t: AppTest, topic: Topic | str) -> list[tuple[Any, Any]]:
    return [(record.key, record.value) for record in t.output(topic)]


# ---------------------------------------------------------------------- in


async def test_what_is_sent_is_processed_through_all_topologies(t: AppTest) -> None:
    await t.send(shop.orders, "tea")
    await t.send(shop.orders, "tea")
    assert values(t, shop.totals_out) == [("tea", 1), ("tea", 2)]


async def test_a_topic_can_be_named(t: AppTest) -> None:
    await t.send("orders", "tea")
    assert values(t, "totals-out") == [("tea", 1)]


async def test_bytes_go_as_they_are(t: AppTest) -> None:
    await t.send(shop.orders, b'"tea"')
    assert shop.totals["tea"] == 1


async def test_a_value_that_the_topic_does_not_take_is_refused(t: AppTest) -> None:
    with pytest.raises(RecordError, match="orders does not take this key"):
        await t.send(shop.orders, "tea", key=5)


async def test_a_topic_that_no_agent_reads_is_a_mistake(t: AppTest) -> None:
    with pytest.raises(ConfigurationError, match="no agent of this test reads the topic ordesr"):
        await t.send("ordesr", "tea")


async def test_a_send_of_the_tests_own_does_not_look_for_a_broker(t: AppTest) -> None:
    with pytest.raises(StreamappError, match=r"t\.send\(topic"):
        await shop.orders.send(value="tea")


async def test_a_partition_that_is_not_there_is_a_mistake(t: AppTest) -> None:
    with pytest.raises(StreamappError, match="partition 4 of orders, which has 4"):
        await t.send(shop.orders, "tea", partition=4)


async def test_a_key_decides_the_partition_and_without_one_they_take_turns(t: AppTest) -> None:
    for _ in range(2):
        await t.send(shop.orders, "tea", key="k")
    assert (
        len({batch.partition for e in t.ledger for batch in e.batches if batch.topic == "orders"})
        == 1
    )
    for _ in range(4):
        await t.send(shop.orders, "tea")
    partitions = {b.partition for e in t.ledger[-100:] for b in e.batches if b.topic == "orders"}
    assert partitions == {0, 1, 2, 3}


async def test_a_key_goes_where_kafkas_own_partitioner_sends_it(t: AppTest) -> None:
    """Java's `Utils.murmur2("21")` is -973932308: positive 1173551340, partition 0 of 4."""
    await t.send(shop.orders, "tea", key="21")
    assert [b.partition for b in t.ledger[0].batches] == [0]


@pytest.mark.parametrize(
    "at", [1_700_000_005_000, 1_700_000_005.0, datetime.fromtimestamp(1_700_000_005, UTC)]
)
async def test_at_is_the_records_time(t: AppTest, at: Any) -> None:
    await t.send(shop.orders, "tea", at=at)
    assert shop.windows.windows() == [Window(1_700_000_000_000, 1_700_000_010_000)]


async def test_without_a_time_it_is_the_clocks(t: AppTest) -> None:
    await t.advance(12)
    await t.send(shop.orders, "tea")
    begin = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert t.now == begin + 12_000
    assert shop.windows.windows() == [Window(begin + 10_000, begin + 20_000)]


async def test_headers_come_with_the_record() -> None:
    app = an_app()
    found = []

    @app.batch_agent(app.topic("in"))
    async def look(batches: Batches) -> None:
        async for batch in batches:
            found.extend(batch.headers)

    async with app.test() as t:
        await t.send("in", 1, headers={"h": "x"})
    assert found == [(("h", b"x"),)]


# ---------------------------------------------------------------------- cuts


async def test_each_send_is_a_batch_of_its_own(t: AppTest) -> None:
    await t.send(shop.orders, "tea", partition=0)
    await t.send(shop.orders, "rum", partition=0)
    assert shop.batches == [["tea"], ["rum"]]


async def test_what_is_sent_in_a_batch_is_one_batch_a_partition(t: AppTest) -> None:
    async with t.batch():
        await t.send(shop.orders, "tea", partition=0)
        await t.send(shop.orders, "rum", partition=0)
        await t.send(shop.orders, "ale", partition=1)
        assert shop.batches == []
    assert shop.batches == [["tea", "rum"], ["ale"]]


async def test_batches_can_be_cut_shorter(t: AppTest) -> None:
    t.cut_every(2)
    async with t.batch():
        for item in "abcde":
            await t.send(shop.orders, item, partition=0)
    assert shop.batches == [["a", "b"], ["c", "d"], ["e"]]
    assert [(b.from_offset, b.until_offset) for e in t.ledger for b in e.batches][:1] == [(0, 2)]
    t.cut_every(None)
    async with t.batch():
        for item in "fgh":
            await t.send(shop.orders, item, partition=0)
    assert shop.batches[3:] == [["f", "g", "h"]]


async def test_an_agents_own_cut_is_kept() -> None:
    app = an_app()
    sizes = []

    @app.batch_agent(app.topic("in"), max_records=3)
    async def look(batches: Batches) -> None:
        async for batch in batches:
            sizes.append(len(batch))

    async with app.test(partitions=1) as t, t.batch():
        for number in range(7):
            await t.send("in", number)
    assert sizes == [3, 3, 1]


# ---------------------------------------------------------------------- time


async def test_windows_close_as_data_moves_the_watermark() -> None:
    async with shop.app.test(partitions=1) as t:
        await t.send(shop.orders, "tea", at=1_000)
        await t.send(shop.orders, "tea", at=9_999)
        assert t.output(shop.windows_out) == []
        await t.send(shop.orders, "rum", at=10_000)
        (record,) = t.output(shop.windows_out)
        assert record.value == {"key": "tea", "start": 0, "end": 10_000, "value": 2, "final": True}


async def test_a_partition_without_records_holds_the_windows_until_it_is_idle(t: AppTest) -> None:
    await t.send(shop.orders, "tea", at=1_000, partition=0)
    await t.send(shop.orders, "tea", at=30_000, partition=0)
    assert t.output(shop.windows_out) == []
    await t.advance(10)
    assert [record.value["start"] for record in t.output(shop.windows_out)] == [0]


async def test_windows_close_with_the_clock_when_nothing_comes_any_more(t: AppTest) -> None:
    await t.send(shop.orders, "tea", at=1_000)
    await t.advance(10)
    assert t.output(shop.windows_out) == []
    await t.advance(10)
    assert len(t.output(shop.windows_out)) == 1


async def test_a_long_time_is_the_same_in_one_go_and_in_parts() -> None:
    found = []
    for parts in ([60], [1] * 60, [7, 13, 40]):
        async with shop.app.test() as t:
            await t.send(shop.orders, "tea", at=1_000)
            await t.send(shop.orders, "rum", at=17_000)
            for seconds in parts:
                await t.advance(seconds)
            found.append([(r.timestamp, r.value) for r in t.output(shop.windows_out)])
    assert len(found[0]) == 2
    assert found[0] == found[1] == found[2]


async def test_a_day_passes_in_a_moment(t: AppTest) -> None:
    await t.send(shop.orders, "tea")
    async with asyncio.timeout(20):
        await t.advance(86_400)
    assert len(t.output(shop.windows_out)) == 1


async def test_the_clock_begins_where_the_test_says() -> None:
    async with shop.app.test(now=datetime(2005, 12, 4, tzinfo=UTC)) as t:
        assert t.now == 1_133_654_400_000


async def test_late_records_are_counted() -> None:
    async with shop.app.test(partitions=1) as t:
        await t.send(shop.orders, "tea", at=50_000)
        await t.send(shop.orders, "tea", at=1_000)
        assert t.late == 1
        assert shop.windows.window(Window(0, 10_000)) == {}


# ---------------------------------------------------------------------- out


async def test_outputs_are_decoded_with_all_that_belongs_to_them() -> None:
    app = an_app()
    out = app.topic("out", key_type=str, value_type=int, partitions=3)

    @app.batch_agent(app.topic("in"))
    async def pass_on(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                await out.send(key="k", value=value, partition=2, timestamp=1.5, headers={"h": "x"})

    async with app.test() as t:
        await t.send("in", 7)
        (record,) = t.output(out)
        assert (record.key, record.value, record.partition) == ("k", 7, 2)
        assert (record.timestamp, record.offset) == (1500, 0)
        assert record.headers == (("h", b"x"),)
        await t.send("in", 8)
        assert [record.offset for record in t.output("out")] == [0, 1]


async def test_an_output_topic_that_nobody_declared_is_bytes() -> None:
    app = an_app()

    @app.batch_agent(app.topic("in"))
    async def pass_on(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                await app.topic("somewhere").send(value=value)

    async with app.test() as t:
        await t.send("in", {"a": 1})
        assert values(t, "somewhere") == [(None, b'{"a":1}')]


async def test_what_an_agent_yields_is_output_of_its_sinks() -> None:
    app = an_app()
    out = app.topic("out")

    @app.batch_agent(app.topic("in"), sink=out)
    async def pass_on(batches: Batches) -> AsyncIterator[int]:
        async for batch in batches:
            for value in batch:
                yield value + 1

    async with app.test() as t:
        await t.send("in", 1)
        assert values(t, out) == [(None, 2)]


async def test_what_is_sent_on_by_key_is_output_without_the_engines_own_records(
    t: AppTest,
) -> None:
    async with t.batch():
        for _ in range(100):
            await t.send(shop.orders, "tea", partition=0)
    assert values(t, shop.by_item) == [("tea", 100)]


async def test_dead_letters_tell_where_and_why(t: AppTest) -> None:
    async with t.batch():
        await t.send(shop.orders, "tea", partition=2)
        await t.send(shop.orders, b"{", partition=2, key="k", headers={"h": "x"}, at=77)
        await t.send(shop.orders, "tea", partition=2)
    (letter,) = t.dead_letters
    assert (letter.topic, letter.partition, letter.offset, letter.timestamp) == ("orders", 2, 1, 77)
    assert letter.error.startswith("DecodeError: ")
    assert (letter.key, letter.value, letter.headers) == (b"k", b"{", (("h", b"x"),))
    assert shop.totals["tea"] == 2


# ---------------------------------------------------------------------- tables


async def test_tables_are_read_in_the_test_whoever_has_the_key(t: AppTest) -> None:
    for item in ("tea", "rum", "ale", "tea"):
        await t.send(shop.orders, item)
    totals = shop.totals
    assert totals["tea"] == 2
    assert totals["gin"] == 0, "the default"
    assert "rum" in totals
    assert "gin" not in totals
    assert (totals.get("rum"), totals.get("gin")) == (1, None)
    assert dict(totals.items()) == {"tea": 2, "rum": 1, "ale": 1}
    assert sorted(totals) == ["ale", "rum", "tea"]
    assert len(totals) == 3


async def test_windows_are_read_in_the_test(t: AppTest) -> None:
    await t.send(shop.orders, "tea", at=1_000)
    await t.send(shop.orders, "rum", at=2_000)
    await t.send(shop.orders, "tea", at=12_000)
    windows = shop.windows
    assert windows.windows() == [Window(0, 10_000), Window(10_000, 20_000)]
    assert windows.window(Window(0, 10_000)) == {"tea": 1, "rum": 1}
    assert windows.value("tea", 15_000) == 1
    assert windows.value("rum", 15_000) == 0
    assert windows["tea"].at(15_000) == 1


async def test_a_key_in_several_tasks_is_a_mistake_to_see(t: AppTest) -> None:
    """`seen` is counted where the order came in: by partition, not by item."""
    await t.send(shop.orders, "tea", partition=0)
    await t.send(shop.orders, "tea", partition=3)
    for read in (
        lambda: shop.seen["tea"],
        lambda: shop.seen.get("tea"),
        lambda: "tea" in shop.seen,
        lambda: dict(shop.seen.items()),
        lambda: t.changelog(shop.seen),
    ):
        with pytest.raises(TableError, match=r"seen\['tea'\] is in tasks 0, 3.*key_by"):
            read()
    assert t.table(shop.seen, partition=3)["tea"] == 1
    assert t.changelog(shop.seen, partition=3) == {"tea": 1}


async def test_a_windows_key_in_several_tasks_is_one_too() -> None:
    app = an_app()
    windows = app.BatchTable("w", aggregate=Count()).tumbling(10)

    @app.batch_agent(app.topic("in"))
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                windows[value] += 1

    async with app.test() as t:
        await t.send("in", "tea", partition=0, at=0)
        await t.send("in", "tea", partition=1, at=0)
        await t.send("in", "rum", partition=1, at=0)
        with pytest.raises(TableError, match="tasks 0, 1"):
            windows.value("tea", 0)
        with pytest.raises(TableError, match="tasks 0, 1"):
            windows.window(Window(0, 10_000))
        assert windows.value("rum", 0) == 1
        assert t.table(windows, partition=1).window_items(Window(0, 10_000)) == {
            "tea": 1,
            "rum": 1,
        }


async def test_a_test_does_not_write_tables(t: AppTest) -> None:
    with pytest.raises(TableError, match="a test reads the table 'totals'"):
        shop.totals["tea"] = 5
    with pytest.raises(TableError, match="a test reads the table 'totals'"):
        del shop.totals["tea"]
    with pytest.raises(TableError, match=r"no record at hand: windows\.value"):
        shop.windows["tea"] += 1
    with pytest.raises(TableError, match="a test reads the table 'windows'"):
        shop.windows.add("tea", 1, at=0)


async def test_a_table_cannot_be_read_after_its_test() -> None:
    async with shop.app.test() as t:
        pass
    with pytest.raises(TableError):
        _ = shop.totals["tea"]
    with pytest.raises(TableError, match="after its test"):
        _ = t.table(shop.totals)["tea"]


async def test_a_table_that_its_agent_did_not_declare_is_missed_as_in_a_worker() -> None:
    app = an_app()
    hidden = {"table": app.BatchTable("hidden", default=int)}
    declared = app.BatchTable("declared", default=int)

    @app.batch_agent(app.topic("in"), uses=[declared])
    async def count(batches: Batches) -> None:
        async for batch in batches:
            hidden["table"]["n"] += len(batch)

    async with app.test() as t:
        with pytest.raises(TableError, match="used where no task has it"):
            await t.send("in", 1)


async def test_a_table_of_another_topology_is_missed_after_a_restart_too() -> None:
    app = an_app()
    table = app.BatchTable("table", default=int)
    hidden = {"table": table}

    @app.batch_agent(app.topic("in"))
    async def reads(batches: Batches) -> None:
        async for _ in batches:
            _ = hidden["table"]["n"]

    @app.batch_agent(app.topic("other"), uses=[table])
    async def owns(batches: Batches) -> None:
        async for _ in batches:
            pass

    async with app.test() as t:
        await t.restart()
        with pytest.raises(TableError, match="used where no task has it"):
            await t.send("in", 1)


async def test_changelogs_are_what_a_restart_would_find(t: AppTest) -> None:
    await t.send(shop.orders, "tea", at=1_000)
    await t.send(shop.orders, "tea", at=12_000)
    assert t.changelog(shop.totals) == {"tea": 2}
    assert t.changelog(shop.windows) == {(0, "tea"): 1, (10_000, "tea"): 1}


async def test_markers_say_where_a_task_stands(t: AppTest) -> None:
    assert t.marker(shop.split, partition=1) is None
    await t.send(shop.orders, "tea", partition=1, at=5_000)
    marker = t.marker(shop.split, partition=1)
    assert marker is not None
    assert (marker.sequence, marker.sources, marker.watermark) == (1, {"orders": 1}, 5_000)


# ---------------------------------------------------------------------- errors


async def test_what_an_agent_raises_comes_out_and_nothing_of_its_batch_is_visible(
    t: AppTest,
) -> None:
    shop.fail = True
    with pytest.raises(Fails):
        await t.send(shop.orders, "tea", partition=0)
    assert t.output(shop.totals_out) == t.output(shop.by_item) == []
    assert (dict(shop.seen.items()), t.changelog(shop.seen), t.ledger) == ({}, {}, [])


async def test_after_an_error_the_batch_comes_again(t: AppTest) -> None:
    shop.fail = True
    with pytest.raises(Fails):
        await t.send(shop.orders, "tea", partition=0)
    shop.fail = False
    await t.send(shop.orders, "rum", partition=0)
    assert shop.batches == [["tea"], ["tea", "rum"]]
    assert dict(shop.totals.items()) == {"tea": 1, "rum": 1}


async def test_run_tries_a_failed_batch_again(t: AppTest) -> None:
    shop.fail = True
    with pytest.raises(Fails):
        await t.send(shop.orders, "tea")
    with pytest.raises(Fails):
        await t.run()
    shop.fail = False
    await t.run()
    assert shop.totals["tea"] == 1


async def test_an_error_in_a_batch_comes_out_at_its_end(t: AppTest) -> None:
    shop.fail = True
    with pytest.raises(Fails):
        async with t.batch():
            await t.send(shop.orders, "tea")


async def test_agents_that_send_to_each_other_for_ever_are_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamapp.testing.worker._RESTLESS", 20)
    app = an_app()
    again = app.topic("again")

    @app.batch_agent(again)
    async def send_again(batches: Batches) -> None:
        async for batch in batches:
            for value in batch:
                await again.send(value=value)

    async with app.test() as t:
        with pytest.raises(StreamappError, match="in a circle"):
            await t.send(again, 1)


# ---------------------------------------------------------------------- restarts, crashes, guarantees


@pytest.mark.parametrize("keep_stores", [True, False], ids=["same host", "another host"])
async def test_a_restart_finds_what_was_committed(t: AppTest, keep_stores: bool) -> None:
    await t.send(shop.orders, "tea", at=1_000)
    await t.send(shop.orders, "tea", at=2_000)
    await t.restart(keep_stores=keep_stores)
    assert shop.totals["tea"] == 2
    assert shop.windows.window(Window(0, 10_000)) == {"tea": 2}
    await t.send(shop.orders, "tea", at=3_000)
    assert values(t, shop.totals_out) == [("tea", 1), ("tea", 2), ("tea", 3)]


@pytest.mark.parametrize("keep_stores", [True, False])
async def test_the_stores_of_another_host_are_not_found(t: AppTest, keep_stores: bool) -> None:
    left = t.directory / "count" / "0" / "left"
    left.touch()
    await t.restart(keep_stores=keep_stores)
    assert left.exists() is keep_stores


async def test_what_was_deleted_stays_so_when_the_store_did_not_hear_of_it() -> None:
    app = an_app()
    table = app.BatchTable("table", key_type=str)

    @app.batch_agent(app.topic("in"))
    async def keep(batches: Batches) -> None:
        async for batch in batches:
            for key in batch:
                if table.pop(key, None) is None:
                    table[key] = 1

    async with app.test(partitions=1) as t:
        await t.send("in", "a")
        assert dict(table.items()) == {"a": 1}
        t.crash("after-commit")
        await t.send("in", "a")
        assert dict(table.items()) == t.changelog(table) == {}


async def test_a_restart_begins_agents_anew() -> None:
    app = an_app()
    starts = []

    @app.batch_agent(app.topic("in"))
    async def look(batches: Batches) -> None:
        starts.append(1)
        async for _ in batches:
            pass

    async with app.test(partitions=1) as t:
        await t.send("in", 1)
        await t.send("in", 1)
        await t.restart()
        await t.send("in", 1)
    assert len(starts) == 2


async def test_windows_are_final_once_over_restarts() -> None:
    async with shop.app.test(partitions=1) as t:
        for second in range(0, 60, 3):
            await t.send(shop.orders, "tea", at=second * 1000)
            await t.restart()
        await t.advance(60)
        await t.restart()
        await t.advance(60)
        found = [(r.value["start"], r.value["value"]) for r in t.output(shop.windows_out)]
    assert found == [(0, 4), (10_000, 3), (20_000, 3), (30_000, 4), (40_000, 3), (50_000, 3)]


@pytest.mark.parametrize(
    ("guarantee", "moment", "outputs", "state"),
    [
        ("exactly_once", "before-commit", 1, 1),
        ("exactly_once", "after-commit", 1, 1),
        ("at_least_once", "before-commit", 2, 1),
        ("at_least_once", "after-commit", 1, 1),
        ("at_most_once", "before-commit", 0, 0),
        ("at_most_once", "after-commit", 1, 1),
    ],
)
async def test_a_crash_does_what_the_guarantee_says(
    guarantee: str, moment: Any, outputs: int, state: int
) -> None:
    async with shop.app.test(
        agents=[shop.count], partitions=1, processing_guarantee=guarantee
    ) as t:
        t.crash(moment)
        await t.send(shop.by_item, 1, key="tea")
        assert len(t.output(shop.totals_out)) == outputs
        assert shop.totals["tea"] == state
        await t.send(shop.by_item, 1, key="rum")
        assert shop.totals["rum"] == 1


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_state_behind_a_key_by_is_exact_when_the_sender_crashes(guarantee: str) -> None:
    async with shop.app.test(processing_guarantee=guarantee) as t:
        t.crash("before-commit")
        await t.send(shop.orders, "tea")
        assert shop.totals["tea"] == 1


async def test_at_most_once_a_failed_batch_is_lost() -> None:
    async with shop.app.test(processing_guarantee="at_most_once") as t:
        shop.fail = True
        with pytest.raises(Fails):
            await t.send(shop.orders, "tea", partition=0)
        shop.fail = False
        await t.send(shop.orders, "rum", partition=0)
        assert dict(shop.totals.items()) == {"rum": 1}


async def test_at_least_once_a_failed_batch_has_sent_nothing() -> None:
    """Outputs leave when the agents have finished their batch."""
    async with shop.app.test(processing_guarantee="at_least_once") as t:
        shop.fail = True
        with pytest.raises(Fails):
            await t.send(shop.orders, "tea", partition=0)
        assert t.output(shop.by_item) == []


# ---------------------------------------------------------------------- partitions, parts, many tests


async def test_topics_have_their_declared_partitions_or_the_applications(t: AppTest) -> None:
    for partition in range(4):
        await t.send(shop.orders, "tea", partition=partition)
    assert {batch.partition for e in t.ledger for batch in e.batches} == {0, 1, 2, 3}


async def test_partitions_can_be_the_tests_own() -> None:
    async with shop.app.test(partitions=1) as t:
        await t.send(shop.orders, "tea")
        with pytest.raises(StreamappError, match="partition 1 of orders, which has 1"):
            await t.send(shop.orders, "tea", partition=1)


async def test_partition_counts_that_do_not_fit_together_are_refused() -> None:
    app = an_app()
    for name, count in (("left", 2), ("right", 3)):

        @app.batch_agent(app.topic(name, partitions=count), name=name, topology="both")
        async def read(batches: Batches) -> None:
            async for _ in batches:
                pass

    with pytest.raises(ConfigurationError, match="different partition counts"):
        app.test()


async def test_a_topology_can_be_tested_alone() -> None:
    """Nobody waits for the watermark of agents that do not run."""
    async with shop.app.test(agents=[shop.count], partitions=1) as t:
        await t.send(shop.by_item, 3, key="tea", at=1_000)
        await t.send(shop.by_item, 1, key="rum", at=20_000)
        assert dict(shop.totals.items()) == {"tea": 3, "rum": 1}
        assert [r.value["value"] for r in t.output(shop.windows_out)] == [3]
        with pytest.raises(ConfigurationError, match="no agent of this test reads"):
            await t.send(shop.orders, "tea")
        with pytest.raises(TableError):
            _ = shop.seen["tea"]


async def test_an_application_without_agents_has_nothing_to_test() -> None:
    with pytest.raises(ConfigurationError, match="has no batch agents: import"):
        an_app().test()


async def test_tests_of_one_application_share_nothing() -> None:
    for _ in range(2):
        async with shop.app.test() as t:
            await t.send(shop.orders, "tea")
            assert shop.totals["tea"] == 1
            assert t.now == 1_767_225_600_000


async def test_tests_of_one_application_may_overlap() -> None:
    first, second = shop.app.test(), shop.app.test()
    await first.__aenter__()
    await first.send(shop.orders, "tea")
    await second.__aenter__()
    assert shop.totals["tea"] == 0
    await second.send(shop.orders, "rum")
    await first.send(shop.orders, "tea")
    assert dict(shop.totals.items()) == {"rum": 1}
    assert dict(first.table(shop.totals).items()) == {"tea": 2}
    await first.__aexit__(None, None, None)
    assert dict(shop.totals.items()) == {"rum": 1}
    await second.__aexit__(None, None, None)


async def test_tests_in_several_tasks_see_their_own_tables() -> None:
    async def run(item: str) -> dict[str, int]:
        async with shop.app.test() as t:
            await t.send(shop.orders, item)
            await asyncio.sleep(0)
            return dict(shop.totals.items())

    assert await asyncio.gather(run("tea"), run("rum")) == [{"tea": 1}, {"rum": 1}]


async def test_the_temporary_directory_is_gone_afterwards() -> None:
    async with shop.app.test() as t:
        directory = t.directory
        assert directory.is_dir()
    assert not directory.exists()


async def test_it_cleans_up_when_the_test_fails() -> None:
    with pytest.raises(Fails):
        async with shop.app.test() as t:
            directory = t.directory
            raise Fails
    assert not directory.exists()
