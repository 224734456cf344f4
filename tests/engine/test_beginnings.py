"""Where a task begins: in its sources, in its store, and after what it has told others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from kio.schema.errors import ErrorCode

from streamapp import App, Batches, Count
from streamapp.broker import Broker
from streamapp.engine.agreement import OffsetsDisagree
from streamapp.engine.checkpoint import Checkpoint
from streamapp.engine.group import Group
from streamapp.engine.key_by import UpstreamMark, is_mark, mark_record, read_mark
from streamapp.engine.marker import decode_progress, encode
from streamapp.engine.provision import TOMBSTONES_KEPT
from streamapp.errors import StoreError
from streamapp.state.store import Store, StoreMemory, TableWrites
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.running import make_app, run_once, running
from tests.engine.tasks import Record, TaskOnTrial, an_app
from tests.engine.test_engine import publish
from tests.engine.workers import read_all
from tests.polling import eventually


@pytest.fixture
async def kafka(embedded: Broker) -> BrokerUnderTest:
    """A broker of the test's own."""
    return BrokerUnderTest(embedded.bootstrap, "embedded", "begin-")


def counting(kafka: BrokerUnderTest, state: Path, **engine: Any) -> App:
    """An application that counts words and sends them on."""
    app = make_app(kafka, state, engine=engine)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    out = app.topic(kafka.topic("out"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int, key_type=str)

    @app.batch_agent(source, within=0, sink=out)
    async def count(batches: Batches) -> Any:
        async for batch in batches:
            for word in batch:
                counts[word] += 1
                yield f"{word} {counts[word]}"

    return app


async def output(kafka: BrokerUnderTest) -> list[bytes]:
    return [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]


# ---------------------------------------------------------------------- sources


async def test_a_first_batch_that_fails_is_not_skipped_by_a_task_that_began_at_the_end(
    embedded: Broker, kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"before"])
    async with running(counting(kafka, tmp_path, offset_reset="latest")) as engine:
        runners = engine.groups[0].runners
        await eventually(lambda: [r.quiet for r in runners.values()] == [True])
        embedded.faults.refuse_batch("begin-out", 0, ErrorCode.message_too_large)
        await publish(kafka, "in", [b"a"])

        async def sent() -> bool:
            return await output(kafka) == [b"a 1"]

        await eventually(sent, within=20)


async def test_a_source_with_a_backlog_does_not_hold_up_the_other(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = make_app(kafka, tmp_path)
    turns: list[str] = []
    for name in ("long", "short"):
        await kafka.create_topic(name, partitions=1)
        source = app.topic(kafka.topic(name), value_type=bytes, partitions=1)

        @app.batch_agent(source, name=name, topology="both", within=0, max_records=10)
        async def take(batches: Batches, name: str = name) -> None:
            async for batch in batches:
                turns.append(name)
                assert len(batch) <= 10

    await publish(kafka, "long", [b"x"] * 200)
    await publish(kafka, "short", [b"y"] * 5)
    await run_once(app)
    assert turns.count("long") >= 20
    assert turns.index("short") <= 2


# ---------------------------------------------------------------------- the store


async def test_a_store_that_was_away_for_too_long_is_made_anew(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    app = counting(kafka, tmp_path)
    await run_once(app)
    path = tmp_path / app.conf.id / "worker-0" / "count" / "0"
    [owner] = [value for key, value in Store.read_only(path).items() if key == b"\0owner"]
    store = Store(path, owner.decode(), StoreMemory(16 << 20))
    assert store.progress is not None
    progress = decode_progress(store.progress, "the store")
    assert abs(progress.at - time.time() * 1000) < 60_000
    # A key whose delete it has missed, and compaction has taken.
    writes = TableWrites("counts", puts=[(b"b", b"7")])
    at = progress.at - TOMBSTONES_KEPT - 60_000
    store.write([writes], encode(msgspec.structs.replace(progress, at=at)))
    store.close()

    await publish(kafka, "in", [b"b", b"a"])
    await run_once(counting(kafka, tmp_path))
    assert await output(kafka) == [b"a 1", b"b 1", b"a 2"]


async def nothing_committed(group: Group, tp: TopicPartition) -> None:
    """The answer of a group that was empty for longer than `offsets.retention.minutes`."""
    del group, tp


@pytest.mark.parametrize("kept", [True, False], ids=["with-store", "without-store"])
async def test_a_checkpoint_topic_that_was_made_anew_is_refused(
    kafka: BrokerUnderTest, tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    app = counting(kafka, tmp_path)
    await run_once(app)
    async with admin_client(kafka.bootstrap) as admin:
        await admin.delete_topics([f"{app.conf.id}-count-checkpoint"])
    again = tmp_path if kept else tmp_path / "elsewhere"
    why = r"the group .*count is at 1 in .*in\[0\], .* has no checkpoint .* streamapp reset count"
    with pytest.raises(OffsetsDisagree, match=why):
        await run_once(counting(kafka, again))

    # The group's offsets expire, the state does not.
    monkeypatch.setattr(Group, "committed", nothing_committed)
    if kept:
        with pytest.raises(StoreError, match=r"has seen its checkpoint 1, .* one .* is none"):
            await run_once(counting(kafka, again))


# ---------------------------------------------------------------------- what downstream was told


def chained() -> App:
    """Three topologies in a row; the last one has windows."""
    app = an_app(processing_guarantee="at_most_once", engine={"idle_timeout": 10.0})
    first = app.key_by("first", key_type=str)
    second = app.key_by("second", key_type=str)
    windows = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(10)

    @app.batch_agent(app.topic("events", value_type=str))
    async def begin(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                first.add(word)

    @app.batch_agent(first)
    async def middle(batches: Batches) -> None:
        async for batch in batches:
            for key, _ in batch.items():
                second.add(key)

    @app.batch_agent(second)
    async def end(batches: Batches) -> None:
        async for batch in batches:
            for key, _ in batch.items():
                windows[key] += 1

    return app


def said(checkpoint: Checkpoint) -> set[tuple[int | None, bool]]:
    marks = [read_mark(record) for record in checkpoint.outputs if is_mark(record)]
    return {(mark.time, mark.idle) for mark in marks}


def marks_of(upstream: int, time: int | None, idle: bool) -> Record:
    mark = UpstreamMark(f"begin/{upstream}", time, idle)
    return Record(0, 0, None, None, mark_record("", 0, mark, 0).headers)


async def test_a_task_at_most_once_says_that_it_is_no_longer_idle(tmp_path: Path) -> None:
    trial = TaskOnTrial(chained(), tmp_path, topology="middle", partitions=2)
    assert said(await trial.step([marks_of(n, 100, False) for n in (0, 1)])) == {(100, False)}
    assert said(await trial.step([marks_of(n, None, True) for n in (0, 1)])) == {(None, True)}

    part = trial.slice([marks_of(0, 100, False)])
    trial.commit(trial.task.skipping([part]))
    checkpoint = await trial.task.process([part])
    assert said(checkpoint) == {(100, False)}
    await trial.close()


async def test_a_task_that_knows_no_time_yet_says_that_it_is_no_longer_idle(
    tmp_path: Path,
) -> None:
    trial = TaskOnTrial(chained(), tmp_path, topology="middle", partitions=2)
    assert said(await trial.step([marks_of(n, None, True) for n in (0, 1)])) == {(None, True)}
    assert said(await trial.step([marks_of(0, None, False)])) == {(None, False)}
    await trial.close()
