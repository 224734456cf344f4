"""A source that grew: refused with the command, which lets topologies without tables follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete

from streamapp import App, Batches
from streamapp.errors import TopicError
from streamapp.faults import inject
from streamapp.ledger import audit
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle import Beginning, LifecycleError, Reset
from streamapp.lifecycle.partitions import Growth
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.running import make_app, run_once
from tests.engine.test_engine import publish
from tests.engine.workers import partitions_of, read_all

REFUSED = "have 3 by now: keys go to other partitions .*: streamapp migrate partitions route$"
WITH_TABLES = "have 3 by now: keys go to other partitions .*: streamapp reset route "


class Interrupted(Exception):
    """The command was killed here."""


def routing(
    kafka: BrokerUnderTest, state: Path, *, tables: bool = False, begin: str = "earliest"
) -> App:
    """An application that passes words on, or counts them."""
    app = make_app(kafka, state, topic_partitions=1, engine={"offset_reset": begin})
    source = app.topic(kafka.topic("in"), value_type=str)
    out = app.topic(kafka.topic("out"), value_type=str)
    counts = app.BatchTable("counts", default=int, key_type=str)

    if tables:

        @app.batch_agent(source, within=0, topology="route")
        async def count(batches: Batches) -> None:
            async for batch in batches:
                for word in batch:
                    counts[word] += 1
    else:

        @app.batch_agent(source, within=0)
        async def route(batches: Batches) -> None:
            async for batch in batches:
                for word in batch:
                    await out.send(value=word)

    return app


async def grown(kafka: BrokerUnderTest, state: Path, *, tables: bool = False) -> App:
    """Let an application run on one partition, and its source have three then."""
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"ada"])
    await run_once(routing(kafka, state, tables=tables))
    async with admin_client(kafka.bootstrap) as admin:
        await admin.create_partitions({kafka.topic("in"): NewPartitions(3)})
    with pytest.raises(TopicError, match=WITH_TABLES if tables else REFUSED):
        await run_once(routing(kafka, state, tables=tables))
    return routing(kafka, state, tables=tables)


async def test_a_topology_without_tables_follows_and_leaves_nothing_out(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = await grown(kafka, tmp_path)
    await publish(kafka, "in", [b"bob"], partition=2)
    # One of the new partitions does not begin at 0: nothing of that was committed by anybody.
    await publish(kafka, "in", [b"too old"], partition=1)
    async with admin_client(kafka.bootstrap) as admin:
        gone = RecordsToDelete(before_offset=1)
        await admin.delete_records({TopicPartition(kafka.topic("in"), 1): gone})

    def interrupt() -> None:
        raise Interrupted

    [topology] = app.topologies()
    async with LedgerReader(app.kafka_options()) as reader:
        with inject("growth.marked", interrupt), pytest.raises(Interrupted):
            await Growth(app, reader, topology).run()
    with pytest.raises(TopicError, match=REFUSED):
        await run_once(routing(kafka, tmp_path))
    async with LedgerReader(app.kafka_options()) as reader:
        plan = await Growth(app, reader, topology).plan()
        assert (plan.tasks, plan.becoming) == (1, 3)
        await Growth(app, reader, topology).run()
    await run_once(routing(kafka, tmp_path, begin="latest"))
    out = await read_all(kafka.bootstrap, kafka.topic("out"))
    assert sorted(record.value for record in out) == [b"ada", b"bob"]
    assert (await audit(app.kafka_options(), app.topologies())).well


async def test_one_with_tables_is_refused_and_follows_with_a_reset(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = await grown(kafka, tmp_path, tables=True)
    [topology] = app.topologies()
    async with LedgerReader(app.kafka_options()) as reader:
        with pytest.raises(
            LifecycleError, match=r"keeps the tables counts, .*: streamapp reset route\."
        ):
            await Growth(app, reader, topology).run()
        await Reset(app, reader, [topology], Beginning()).run()
    await publish(kafka, "in", [b"ada"], partition=2)
    await run_once(routing(kafka, tmp_path, tables=True))
    assert len(await partitions_of(kafka.bootstrap, topology.changelog("counts"))) == 3
    records = await read_all(kafka.bootstrap, topology.changelog("counts"))
    latest = {(record.partition, record.key): record.value for record in records}
    assert latest == {(0, b"ada"): b"1", (2, b"ada"): b"1"}
