"""The audit of a ledger in Kafka: clean after workers were killed, and not when it was tampered with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from streamapp.engine.marker import MARKER_KEY, LedgerBatch, LedgerEntry, encode
from streamapp.errors import StoreError
from streamapp.ledger import Audit, LedgerError, audit, audit_text
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine import jobs
from tests.engine.jobs import Event
from tests.engine.running import run_once, running
from tests.engine.workers import Cluster, produce, read_all
from tests.ledger.shop import Shop
from tests.polling import eventually


async def audited(shop: Shop) -> Audit:
    return await audit(shop.app.kafka_options(), shop.app.topologies())


async def last_entry(shop: Shop, partition: int = 0) -> LedgerEntry:
    records = await read_all(shop.kafka.bootstrap, shop.topology.ledger_topic)
    raw = [record.value for record in records if record.partition == partition][-1]
    return msgspec.json.decode(raw, type=LedgerEntry)


async def write(shop: Shop, topic: str, *values: Any, key: bytes | None = None) -> None:
    """Write to a topic of the engine's, as nobody should."""
    async with AIOKafkaProducer(bootstrap_servers=shop.kafka.bootstrap) as producer:
        for value in values:
            await producer.send_and_wait(topic, encode(value), key=key, partition=0)


def follows(entry: LedgerEntry, begin: int, end: int, **more: Any) -> LedgerEntry:
    """An entry that follows another by its number, with a range of any."""
    [part] = entry.batches
    batch = LedgerBatch(
        topic=part.topic,
        partition=part.partition,
        from_offset=begin,
        until_offset=end,
        records=end - begin,
    )
    return msgspec.structs.replace(entry, sequence=entry.sequence + 1, batches=[batch], **more)


ORDERS = [("ada", 5), ("bob", 7), ("ada", 1), ("cyd", 2), ("bob", 3), ("ada", 9), ("bob", 4)]


async def test_each_partition_is_proven_up_to_what_is_committed(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    found = await audited(shop)
    assert found.well
    some, none = found.partitions
    assert (some.topic, some.partition, none.partition) == (shop.orders, 0, 1)
    assert (some.proven_from, some.until, some.committed, some.end) == (0, 7, 7, 7)
    assert (some.batches, some.records, some.lag, some.guarantees) == (2, 7, 0, ("exactly_once",))
    assert (none.batches, none.proven_from, none.until, none.beyond, none.end) == (
        0,
        None,
        None,
        0,
        0,
    )
    [task] = [task for task in found.tasks if task.partition == 0]
    assert (task.first, task.last, task.marked) == (1, 2, 2)


async def test_an_application_that_never_ran_is_well_and_its_topics_are_not_made(
    shop: Shop,
) -> None:
    found = await audited(shop)
    assert found.well
    assert [part.batches for part in found.partitions] == [0, 0]
    async with admin_client(shop.kafka.bootstrap) as admin:
        assert shop.topology.ledger_topic not in await admin.list_topics()


async def test_while_workers_run_an_audit_finds_nothing_that_is_not_there(shop: Shop) -> None:
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await shop.order(ORDERS)

    async with running(shop.app):
        loading = asyncio.create_task(load())
        for _ in range(12):
            found = await audited(shop)
            assert found.well, audit_text(found)
        stop.set()
        await loading
    assert found.total("batches") > 0


async def test_an_audit_waits_for_the_transaction_that_is_open_in_the_ledger(shop: Shop) -> None:
    # Its offsets may be seen as committed a moment before its entry can be read.
    await shop.order(ORDERS)
    await run_once(shop.app)
    entry = follows(await last_entry(shop), 7, 9)
    async with AIOKafkaProducer(
        bootstrap_servers=shop.kafka.bootstrap, transactional_id=f"{shop.kafka.prefix}other"
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(shop.topology.ledger_topic, encode(entry), partition=0)
        auditing = asyncio.create_task(audited(shop))
        await asyncio.wait({auditing}, timeout=1.0)
        assert not auditing.done()
        await producer.commit_transaction()
    assert (await auditing).partitions[0].until == 9


# ---------------------------------------------------------------------- faults


@pytest.fixture
def cluster(
    kafka: BrokerUnderTest, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    running = Cluster(kafka, request.param, tmp_path)
    yield running
    running.stop()


@pytest.mark.parametrize(
    "cluster", ["exactly_once", "at_least_once", "at_most_once"], indirect=True
)
async def test_workers_that_die_around_a_commit_leave_a_clean_ledger(cluster: Cluster) -> None:
    kafka = cluster.kafka
    await kafka.create_topic("in", partitions=4)
    events = [Event(n, f"{'abc'[n % 3]}{n % 8}", 1_700_000_000_000 + n * 25) for n in range(600)]
    await produce(kafka, events)
    for fault in (
        "checkpoint.before-commit:5",
        "checkpoint.after-commit:3",
        "checkpoint.processed:4",
    ):
        assert cluster.start(name="a", fault=fault).wait() != 0
    cluster.finish()

    application = jobs.build(kafka.prefix, kafka.bootstrap, "exactly_once", str(cluster.state))
    found = await audit(application.app.kafka_options(), application.app.topologies())
    assert found.well, audit_text(found)
    counted = [part for part in found.partitions if part.topic == kafka.topic("in")]
    assert sum(part.records for part in counted) == len(events)
    assert [part.until for part in counted] == [part.end for part in counted]
    sent = {
        msgspec.json.decode(record.value)["n"]
        for record in await read_all(kafka.bootstrap, kafka.topic("out"))
    }
    # Of the exact ones this is 0: what at most once has lost is what the ledger says.
    lost = sum(part.unprocessed_records + part.pending_records for part in counted)
    assert lost == len(events) - len(sent)


# ---------------------------------------------------------------------- what is wrong


async def test_a_gap_in_the_ledger_is_found_with_who_wrote_what(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    before = await last_entry(shop)
    await write(shop, shop.topology.ledger_topic, follows(before, 9, 12, worker="mallory", epoch=4))

    found = await audited(shop)
    assert not found.well
    assert (found.total("gaps"), found.total("overlaps")) == (1, 0)
    text = audit_text(found)
    assert f"gap in {shop.orders}:0: offsets 7 to 9 are in no batch" in text
    assert "after: checkpoint 3 of worker mallory, epoch 4" in text
    assert (
        text.splitlines()[-1]
        == "NOT WELL: 1 gaps, 5 offsets behind the ledger, 1 checkpoints behind the ledger"
    )


async def test_an_overlap_in_the_ledger_is_found_with_who_wrote_what(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    before = await last_entry(shop)
    await write(shop, shop.topology.ledger_topic, follows(before, 4, 9, worker="mallory", epoch=4))

    found = await audited(shop)
    assert not found.well
    assert (found.total("gaps"), found.total("overlaps")) == (0, 1)
    assert f"overlap in {shop.orders}:0: offsets 4 to 7 are in two batches" in audit_text(found)


async def test_a_checkpoint_that_is_missing_in_the_ledger_is_found(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    before = await last_entry(shop)
    later = msgspec.structs.replace(follows(before, 7, 7), sequence=before.sequence + 2)
    await write(shop, shop.topology.ledger_topic, later)

    found = await audited(shop)
    assert not found.well
    assert [task.breaks for task in found.tasks if task.partition == 0] == [1]
    assert "break in add_up/0: checkpoint 3 is to follow, and it is 4" in audit_text(found)


async def test_offsets_that_are_committed_beyond_the_ledger_are_found(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    await shop.order(ORDERS)
    tp = TopicPartition(shop.orders, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=shop.kafka.bootstrap,
        group_id=shop.topology.group,
        enable_auto_commit=False,
    ) as consumer:
        consumer.assign([tp])
        await consumer.commit({tp: 10})

    found = await audited(shop)
    assert not found.well
    assert found.partitions[0].beyond == 3
    assert f"{shop.orders}:0 is committed 3 offsets further than 7" in audit_text(found)


async def test_a_group_that_somebody_has_set_back_is_found(shop: Shop) -> None:
    """As the engine, which refuses to go on from there."""
    await shop.order(ORDERS)
    await run_once(shop.app)
    async with AIOKafkaConsumer(
        bootstrap_servers=shop.kafka.bootstrap,
        group_id=shop.topology.group,
        enable_auto_commit=False,
    ) as consumer:
        consumer.assign([TopicPartition(shop.orders, 0)])
        await consumer.commit({TopicPartition(shop.orders, 0): 2})
    found = await audited(shop)
    assert not found.well
    text = audit_text(found)
    assert f"behind in {shop.orders}:0: the ledger comes to 7" in text
    assert text.splitlines()[-1] == "NOT WELL: 5 offsets behind the ledger"


async def test_a_changelog_that_shrank_is_found(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    before = await last_entry(shop)
    assert before.changelogs
    for sequence, end in ((1, 90), (2, 1)):
        entry = msgspec.structs.replace(
            follows(before, 7, 7), sequence=before.sequence + sequence, changelogs={"spent": end}
        )
        await write(shop, shop.topology.ledger_topic, entry)
    found = await audited(shop)
    assert not found.well
    text = audit_text(found)
    assert "shrunk in add_up/0: the changelog of spent ended at 90, and ends at 1 later" in text
    assert "1 changelogs that shrank" in text.splitlines()[-1]


async def test_the_guarantee_in_force_is_the_last_one(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    await shop.order(ORDERS)
    shop.guarantee = "at_least_once"
    await run_once(shop.again())
    found = await audited(shop)
    part = found.partitions[0]
    assert (part.guarantee, part.guarantees) == (
        "at_least_once",
        ("at_least_once", "exactly_once"),
    )
    assert audit_text(found).splitlines()[-1].endswith("(at_least_once)")


async def test_state_beyond_the_ledger_is_found(shop: Shop) -> None:
    await shop.order(ORDERS)
    engine = await run_once(shop.app)
    assert engine is not None
    records = await read_all(shop.kafka.bootstrap, shop.topology.checkpoint_topic)
    marker = jobs_marker(records)
    marker.sequence += 1
    marker.sources[shop.orders] += 2
    await write(shop, shop.topology.checkpoint_topic, marker, key=MARKER_KEY)

    found = await audited(shop)
    assert not found.well
    assert found.partitions[0].beyond == 2
    assert "the state is at checkpoint 3, the ledger ends with 2" in audit_text(found)


def jobs_marker(records: list[Any]) -> Any:
    from streamapp.engine.marker import Marker

    raw = [record.value for record in records if record.partition == 0][-1]
    return msgspec.json.decode(raw, type=Marker)


async def test_a_ledger_that_is_gone_under_state_is_found(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    async with admin_client(shop.kafka.bootstrap) as admin:
        await admin.delete_topics([shop.topology.ledger_topic])

        async def gone() -> bool:
            return shop.topology.ledger_topic not in await admin.list_topics()

        await eventually(gone)
    found = await audited(shop)
    assert not found.well
    assert found.partitions[0].beyond == 7


async def test_entries_that_the_ledger_keeps_no_more_take_nothing_from_the_proof(
    shop: Shop,
) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    tp = TopicPartition(shop.topology.ledger_topic, 0)
    async with admin_client(shop.kafka.bootstrap) as admin:
        await admin.delete_records({tp: RecordsToDelete(before_offset=1)})
        found = await audited(shop)
        assert found.well
        assert (found.partitions[0].proven_from, found.partitions[0].until) == (5, 7)

        await admin.delete_records({tp: RecordsToDelete(before_offset=-1)})
    found = await audited(shop)
    assert found.well
    assert found.partitions[0].proven_from is None


async def test_an_entry_of_another_format_is_refused(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    before = await last_entry(shop)
    await write(
        shop, shop.topology.ledger_topic, msgspec.structs.replace(follows(before, 7, 8), format=9)
    )
    with pytest.raises(StoreError, match=r"the entry .*-ledger\[0\] at offset \d+ has format 9"):
        await audited(shop)


# ---------------------------------------------------------------------- retention


@pytest.mark.parametrize("shop", ["exactly_once", "at_most_once"], indirect=True)
async def test_records_that_retention_took_unread_are_a_jump_and_no_gap(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    await shop.order(ORDERS)
    async with admin_client(shop.kafka.bootstrap) as admin:
        await admin.delete_records(
            {TopicPartition(shop.orders, 0): RecordsToDelete(before_offset=12)}
        )
    shop.app = shop.again()
    await run_once(shop.app)

    found = await audited(shop)
    part = found.partitions[0]
    assert found.well, audit_text(found)
    assert (part.jumps, part.lost, part.until, part.records) == (1, 5, 14, 9)
    [jump] = [each.jump for each in part.found_jumps]
    assert (jump.from_offset, jump.until_offset, jump.why) == (7, 12, "retention")
    assert "retention took offsets 7 to 12 before they were read" in audit_text(found)


# ---------------------------------------------------------------------- the command


async def test_the_command_exits_with_0_when_all_is_well_and_1_when_not(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    done = shop.command("audit", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["well"], told["batches"], told["gaps"], told["overlaps"]) == (True, 2, 0, 0)
    assert told["partitions"][0] | {"since": 0} == {
        "topology": "add_up",
        "topic": shop.orders,
        "partition": 0,
        "batches": 2,
        "records": 7,
        "gaps": 0,
        "overlaps": 0,
        "beyond": 0,
        "behind": 0,
        "guarantee": "exactly_once",
        "jumps": 0,
        "lost": 0,
        "resets": 0,
        "unprocessed": 0,
        "unprocessed_records": 0,
        "pending": 0,
        "pending_records": 0,
        "proven_from": 0,
        "since": 0,
        "until": 7,
        "committed": 7,
        "begin": 0,
        "end": 7,
        "lag": 0,
        "guarantees": ["exactly_once"],
        "found_gaps": [],
        "found_overlaps": [],
        "found_jumps": [],
        "found_resets": [],
        "well": True,
    }

    before = await last_entry(shop)
    await write(shop, shop.topology.ledger_topic, follows(before, 4, 9))
    done = shop.command("audit", "--topology", "add_up")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("NOT WELL: 1 overlaps, 2 offsets behind")


def test_the_command_exits_with_3_when_no_broker_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamapp", "audit"],
        env={"STREAMAPP_BROKER": "kafka://127.0.0.1:1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "streamapp: no Kafka broker answers at 127.0.0.1:1" in done.stderr


async def test_without_a_broker_it_says_so() -> None:
    with pytest.raises(LedgerError, match="no Kafka broker answers"):
        await audit({"bootstrap_servers": "127.0.0.1:1"}, [])
