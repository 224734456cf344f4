"""A batch that is replayed does what it did, and nothing of it reaches the broker."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from streamapp import App, Batch, Batches
from streamapp.broker import Broker
from streamapp.ledger.batches import latest_batches
from streamapp.ledger.errors import AgentRaised, LedgerError
from streamapp.ledger.finding import BatchId
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.replay import Replay, State
from streamapp.ledger.replay import replay as replay_batch
from streamapp.ledger.replay_rendering import replay_text
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine import jobs
from tests.engine.jobs import Event
from tests.engine.running import make_app, run_once
from tests.engine.workers import partitions_of, produce, read_all
from tests.ledger.shop import Shop, make_changelog
from tests.ledger.test_audit import ORDERS
from tests.polling import eventually


async def again(app: App, batch: str, agent: str = "add_up", state: State = "before") -> Replay:
    return await replay_batch(app, BatchId.parse(batch), app.batch_agents[agent], state)


def sent(replay: Replay) -> list[tuple[Any, Any]]:
    return [(emitted.key, emitted.value) for emitted in replay.emitted]


def changes(replay: Replay) -> set[tuple[Any, Any, Any]]:
    return {(written.key, written.old, written.new) for written in replay.written}


async def ends_of(kafka: BrokerUnderTest, *topics: str) -> dict[TopicPartition, int]:
    """Where topics end, control records too."""
    async with LedgerReader({"bootstrap_servers": kafka.bootstrap}) as reader:
        return await reader.ends(
            [tp for t in topics for tp in await partitions_of(kafka.bootstrap, t)]
        )


async def test_a_batch_of_the_past_runs_on_the_state_of_then_and_writes_nothing(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    topology = shop.topology
    topics = (
        f"{shop.kafka.prefix}totals",
        topology.changelog("spent"),
        topology.checkpoint_topic,
        topology.ledger_topic,
    )
    before = await ends_of(shop.kafka, *topics)

    first = await again(shop.again(), f"{shop.orders}:0:0-5")
    assert sent(first) == [("ada", 5), ("bob", 7), ("ada", 6), ("cyd", 2), ("bob", 10)]
    assert changes(first) == {("ada", None, 6), ("bob", None, 10), ("cyd", None, 2)}
    second = await again(shop.again(), f"{shop.orders}:0:5-7")
    assert sent(second) == [("ada", 15), ("bob", 14)]
    assert changes(second) == {("ada", 6, 15), ("bob", 10, 14)}
    assert (second.records, second.restored, second.unsure, second.notes) == (2, 3, (), ())

    assert await ends_of(shop.kafka, *topics) == before


async def test_on_empty_tables_it_counts_from_nothing(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    found = await again(shop.again(), f"{shop.orders}:0:5-7", state="empty")
    assert changes(found) == {("ada", None, 9), ("bob", None, 4)}
    assert found.restored == 0


async def test_every_batch_of_windows_and_key_by_does_again_what_it_did(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=4)
    for table in ("totals", "counts", "letters"):
        await make_changelog(kafka, f"{kafka.prefix}app-{kafka.prefix}{table}", 4)
    events = [
        Event(n, f"{'abc'[n % 3]}{n % 8}", 1_700_000_000_000 + n * 200 - (n % 5) * 3_000)
        for n in range(200)
    ]
    for begin in range(0, len(events), 100):
        await produce(kafka, events[begin : begin + 100])
        await run_once(declared(kafka, tmp_path))

    app = declared(kafka, tmp_path)
    count, by_letter = app.topologies()
    emitted: Counter[tuple[str, str]] = Counter()
    late = 0
    async with LedgerReader(app.kafka_options()) as reader:
        batches, _ = await latest_batches(reader, [count], 1000)
        letters, _ = await latest_batches(reader, [by_letter], 1000)
    for batch in batches:
        found = await again(declared(kafka, tmp_path), batch.id, "count")
        assert found.entry is not None
        assert len(found.written) == found.entry.changes
        assert (found.late, found.watermark) == (found.entry.late, found.entry.watermark)
        late += found.late
        for each in found.emitted:
            emitted[each.topic, repr(msgspec.to_builtins(each.value))] += 1
    assert late > 0
    for name, topic in count.outputs.items():
        real = Counter(
            (name, repr(msgspec.to_builtins(topic.value_codec.decode(record.value))))
            for record in await read_all(kafka.bootstrap, name)
        )
        assert real
        assert {each: n for each, n in emitted.items() if each[0] == name} == real
    for batch in letters:
        found = await again(declared(kafka, tmp_path), batch.id, "count_letters")
        assert found.entry is not None
        assert found.records == found.entry.batches[0].records
        assert len(found.written) == found.entry.changes


def declared(kafka: BrokerUnderTest, directory: Path) -> App:
    return jobs.build(kafka.prefix, kafka.bootstrap, "exactly_once", str(directory / "state")).app


async def test_without_the_first_entries_what_compaction_may_have_taken_is_unsure(
    shop: Shop,
) -> None:
    await shop.order([*ORDERS, ("dan", 8)])
    await run_once(shop.app)
    async with admin_client(shop.kafka.bootstrap) as admin:
        ledger = TopicPartition(shop.topology.ledger_topic, 0)
        await admin.delete_records({ledger: RecordsToDelete(before_offset=1)})
    found = await again(shop.again(), f"{shop.orders}:0:5-8")
    assert found.unsure == ("spent['dan']",)
    assert "unsure: spent['dan']: read, and the changelog has them only" in replay_text(found)
    assert "spent[dan]: unsure → 8" in replay_text(found)
    assert "spent[ada]: 6 → 15" in replay_text(found)


async def test_what_compaction_took_is_unsure(
    embedded: Broker, prefix: str, tmp_path: Path
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", prefix)
    await kafka.create_topic("orders", partitions=2)
    await make_changelog(kafka, "shop-spent", partitions=2, hours=0)
    shop = Shop(kafka, tmp_path)
    await shop.order(ORDERS)
    await run_once(shop.app)

    async def compacted() -> Replay:
        found = await again(shop.again(), f"{shop.orders}:0:5-7")
        assert found.unsure == ("spent['ada']", "spent['bob']")
        return found

    found = await eventually(compacted)
    assert found.restored == 1
    assert all(written.unsure for written in found.written)


# ---------------------------------------------------------------------- what cannot be replayed


async def test_records_that_are_gone_are_named(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    async with admin_client(shop.kafka.bootstrap) as admin:
        await admin.delete_records(
            {TopicPartition(shop.orders, 0): RecordsToDelete(before_offset=6)}
        )
    with pytest.raises(LedgerError, match=r"orders\[0\] begins at 6: the records of .* are gone"):
        await again(shop.again(), f"{shop.orders}:0:5-7")


async def test_a_batch_that_the_ledger_does_not_know_needs_empty_tables(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    with pytest.raises(LedgerError, match=r"has no batch .*:0:1-3, or has it no more"):
        await again(shop.again(), f"{shop.orders}:0:1-3")
    found = await again(shop.again(), f"{shop.orders}:0:1-3", state="empty")
    assert sent(found) == [("bob", 7), ("ada", 1)]
    assert found.notes == (
        "the ledger has nothing of this batch: only its records are those of then",
    )


async def test_a_foreach_batch_is_not_run_again(shop: Shop) -> None:
    """What it does it does outside: nothing of it could be held back."""
    called: list[str] = []
    app = shop.again()

    @app.foreach_batch(app.topic(shop.orders, key_type=str, value_type=int))
    async def keep(batch: Batch) -> None:
        called.append(str(batch.id))

    await shop.order([("ada", 5)])
    await run_once(app)
    [once] = called
    with pytest.raises(LedgerError, match="keep is a foreach_batch: what it does, it does outside"):
        await replay_batch(app, BatchId.parse(once), app.batch_agents["keep"])
    assert called == [once]


async def test_what_the_agent_raises_is_told(shop: Shop, tmp_path: Path) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    app = make_app(shop.kafka, tmp_path)
    orders = app.topic(shop.orders, key_type=str, value_type=int)

    @app.batch_agent(orders)
    async def broken(batches: Batches) -> None:
        async for batch in batches:
            raise RuntimeError(f"no good: {batch.id}")

    with pytest.raises(AgentRaised, match="RuntimeError: no good") as raised:
        await again(app, f"{shop.orders}:0:5-7", "broken", "empty")
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize("text", ["orders", "orders:0:5", "orders:0:5-", "a b:0:1-2"])
def test_what_is_no_batch_id_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="is no batch id"):
        BatchId.parse(text)


@pytest.mark.parametrize("shop", ["at_most_once"], indirect=True)
async def test_at_most_once_a_batch_runs_on_the_state_that_its_processing_found(
    shop: Shop,
) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    found = await again(shop.again(), f"{shop.orders}:0:5-7")
    assert changes(found) == {("ada", 6, 15), ("bob", 10, 14)}
    assert (found.notes, found.unsure) == ((), ())


# ---------------------------------------------------------------------- the command


async def test_the_command_prints_what_the_agent_prints_and_what_it_would_do(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    batch = f"{shop.orders}:0:5-7"
    done = shop.command("replay", batch, "--agent", "add_up")
    assert done.returncode == 0, done.stderr
    printed, *lines = done.stdout.splitlines()
    assert printed == f"{batch} of 2 orders"
    assert (
        lines[0] == f"{batch} again, by add_up: 2 records, state before it from 3 changelog records"
    )
    assert f"  {shop.kafka.prefix}totals ada: 15" in lines
    assert "  spent[ada]: 6 → 15" in lines

    done = shop.command("replay", batch, "--agent", "add_up", "--json", "--state", "empty")
    told = json.loads(done.stdout)
    assert f"{batch} of 2 orders" in done.stderr
    assert (told["id"], told["state"], told["records"]) == (batch, "empty", 2)
    assert told["emitted"][0] == {
        "topic": f"{shop.kafka.prefix}totals",
        "key": "ada",
        "value": 9,
        "partition": None,
    }
    assert {"table", "key", "old", "new", "pane", "unsure"} == {*told["written"][0]}


async def test_the_command_names_what_is_there(shop: Shop) -> None:
    done = shop.command("replay", f"{shop.orders}:0:5-7", "--agent", "nobody")
    assert done.returncode == 1
    assert "streamapp: there is no batch agent nobody: there are add_up" in done.stderr
