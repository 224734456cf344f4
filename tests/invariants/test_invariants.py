"""The invariants that `docs/guarantees.md` lists, by their numbers, on both brokers.

`tests/invariants/mutants.py` takes out the lines that hold them, one after the other: each of these
tests fails then.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from streamapp import App, Batches
from streamapp.broker import Broker
from streamapp.engine import seams
from streamapp.engine.agreement import OffsetsDisagree
from streamapp.engine.engine import Engine
from streamapp.engine.group import Group
from streamapp.engine.runner import TaskRunner
from streamapp.faults import inject
from streamapp.state.store import Store, StoreMemory, TableWrites
from tests.brokers import BrokerUnderTest
from tests.engine.oracle import check_ledger
from tests.engine.running import make_app, run_once, running
from tests.engine.test_engine import committed, publish
from tests.engine.workers import read_all, read_table
from tests.polling import eventually

WORDS = [b"a", b"b", b"a"]


class Halt(BaseException):
    """Ends the worker where it is, as a crash does."""


def halt() -> None:
    raise Halt


def counting(kafka: BrokerUnderTest, state: Path, **options: Any) -> App:
    """Counts words in one task, ten in a batch, and says each count."""
    app = make_app(kafka, state, **options)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    out = app.topic(kafka.topic("out"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int, key_type=str)

    @app.batch_agent(source, within=0, max_records=10)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1
                await out.send(value=f"{word} {counts[word]}")
                if word == "poison":
                    raise ValueError("poison")

    return app


async def halted(app: App) -> None:
    """Run an engine until something ends it."""
    async with running(app):
        await eventually(lambda: app.failure is not None or None)


async def task_of(engine: Engine) -> TaskRunner:
    """The one task, as soon as it is assigned."""
    return await eventually(lambda: engine.groups[0].runners.get(0))


async def visible(kafka: BrokerUnderTest, app: App) -> tuple[list[bytes], dict[bytes, bytes], int]:
    """What others see: outputs, the table, and the group's offset."""
    return (
        [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))],
        await read_table(kafka.bootstrap, f"{app.conf.id}-counts-changelog"),
        await committed(kafka, f"{app.conf.id}-count", "in") or 0,
    )


ALL = ([b"a 1", b"b 1", b"a 2"], {b"a": b"2", b"b": b"1"}, 3)


@pytest.mark.parametrize("moment", ["checkpoint.before-commit", "checkpoint.after-commit"])
async def test_1_the_commit_is_the_only_commit_point(
    kafka: BrokerUnderTest, tmp_path: Path, moment: str
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", WORDS)
    app = counting(kafka, tmp_path)
    with inject(moment, halt):
        await halted(app)
    # The next to open fences, which ends the transaction one way or the other.
    async with running(counting(kafka, tmp_path)) as engine:
        task = await task_of(engine)
        with inject("checkpoint.processed", halt):
            await eventually(lambda: task._producer.is_open and task.position_known)
            seen = await visible(kafka, app)
        assert seen == (([], {}, 0) if moment == "checkpoint.before-commit" else ALL)
    await run_once(counting(kafka, tmp_path))
    assert await visible(kafka, app) == ALL


async def test_2_a_store_never_holds_what_is_not_known_to_be_committed(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", WORDS)
    app = counting(kafka, tmp_path)
    with inject("checkpoint.after-commit", halt):
        await halted(app)
    database = Store.read_only(tmp_path / app.conf.id / "worker-0" / "count" / "0")
    assert [key for key, _ in database.items() if key.startswith(b"counts\0")] == []
    database.close()


class Watched:
    """A database of RocksDB, and how it was written to."""

    def __init__(self, database: Any) -> None:
        self.writes: list[str] = []
        self._database = database

    def __getattr__(self, name: str) -> Any:
        if name in {"write", "put", "delete", "delete_range", "__setitem__"}:
            self.writes.append(name)
        return getattr(self._database, name)


async def test_3_a_checkpoint_is_one_write_to_disk(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    await kafka.create_topic("in", partitions=1)
    async with running(counting(kafka, tmp_path)) as engine:
        runner = await task_of(engine)
        await eventually(lambda: runner.quiet)
        assert runner.task is not None
        store: Any = runner.task.store
        store._db = watched = Watched(store._db)
        await publish(kafka, "in", WORDS)
        await eventually(lambda: runner.position(kafka.topic("in")) == 3 and runner.quiet)
        assert watched.writes == ["write"] * runner.checkpoints


def test_3_one_write_batch_brings_data_and_progress_to_disk(tmp_path: Path) -> None:
    store: Any = Store(tmp_path, "owner", StoreMemory(16 << 20))
    store._db = watched = Watched(store._db)
    store.write(
        [TableWrites("one", [(b"k", b"v")], [b"gone"]), TableWrites("two", [(b"k", b"v")])],
        b"progress",
    )
    assert watched.writes == ["write"]
    assert (store.get(b"one\0k"), store.get(b"two\0k"), store.progress) == (b"v", b"v", b"progress")
    store.close()


async def test_4_a_task_fences_its_predecessor_before_it_reads_anything(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", WORDS)
    app = counting(kafka, tmp_path)
    await run_once(app)
    changelog = f"{app.conf.id}-counts-changelog"
    predecessor = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        transactional_id=app.topologies()[0].transactional_id(0),
        transaction_timeout_ms=600_000,
    )
    await predecessor.start()
    await predecessor.begin_transaction()
    await predecessor.send_and_wait(changelog, b"99", key=b"a", partition=0)

    await publish(kafka, "in", [b"a"])
    await run_once(counting(kafka, tmp_path))
    with pytest.raises(KafkaError):
        await predecessor.commit_transaction()
    await predecessor.client.close()
    assert (await visible(kafka, app))[1] == {b"a": b"3", b"b": b"1"}


async def test_4_a_task_reads_when_the_changelogs_last_stable_offset_has_reached_its_end(
    kafka: BrokerUnderTest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", WORDS)
    app = counting(kafka, tmp_path)
    await run_once(app)
    shutil.rmtree(tmp_path)
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"{kafka.prefix}stranger"
    ) as stranger:
        await stranger.begin_transaction()
        changelog = f"{app.conf.id}-counts-changelog"
        await stranger.send_and_wait(changelog, b"7", key=b"b", partition=0)
        async with running(counting(kafka, tmp_path)) as engine:
            task = await task_of(engine)
            await eventually(lambda: "waits for a transaction to end" in caplog.text, within=20)
            await stranger.commit_transaction()
            await eventually(lambda: task.quiet)
            await publish(kafka, "in", [b"b"])
            await eventually(lambda: task.checkpoints > 0)
    assert (await visible(kafka, app))[1] == {b"a": b"2", b"b": b"8"}


async def test_5_a_refused_delivery_never_ends_in_a_commit(
    embedded: Broker, prefix: str, tmp_path: Path
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", prefix)
    await kafka.create_topic("in", partitions=1)
    app = counting(kafka, tmp_path)
    async with running(app) as engine:
        task = await task_of(engine)
        await eventually(lambda: task.quiet)
        # INVALID_REQUIRED_ACKS: nothing that is tried again.
        embedded.faults.refuse_batch(f"{app.conf.id}-counts-changelog", 0, 21)
        await publish(kafka, "in", WORDS)
        await eventually(lambda: task.quiet and task.position(kafka.topic("in")) == 3)
        await eventually(lambda: task.checkpoints > 0)
    assert await visible(kafka, app) == ALL
    assert await check_ledger(kafka, "count") == 1


async def test_4_source_offsets_come_from_the_marker(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group whose offsets have expired knows none."""
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", WORDS)
    app = counting(kafka, tmp_path)
    await run_once(app)

    async def nothing(group: Group, tp: TopicPartition) -> None:
        del group, tp

    monkeypatch.setattr(Group, "committed", nothing)
    async with running(counting(kafka, tmp_path)) as engine:
        task = await task_of(engine)
        await publish(kafka, "in", [b"c"])
        await eventually(lambda: task.checkpoints > 0)
    outputs, table, _ = await visible(kafka, app)
    assert outputs == [*ALL[0], b"c 1"]
    assert table == {**ALL[1], b"c": b"1"}


async def test_4_the_groups_offsets_are_the_cross_check(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    topic = TopicPartition(await kafka.create_topic("in", partitions=1), 0)
    await publish(kafka, "in", WORDS)
    app = counting(kafka, tmp_path)
    await run_once(app)
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        group_id=app.topologies()[0].group,
        enable_auto_commit=False,
    ) as consumer:
        consumer.assign([topic])
        await consumer.commit({topic: 1})
    with pytest.raises(OffsetsDisagree, match="is at 3 in the checkpoint and at 1 in the group"):
        await run_once(counting(kafka, tmp_path))
    assert (await visible(kafka, app))[:2] == ALL[:2]


async def test_5_a_commit_of_unknown_outcome_drops_what_the_batch_wrote(
    embedded: Broker, prefix: str, tmp_path: Path
) -> None:
    """Nobody answers in time; by then the transaction was aborted, by the fence of the next open."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", prefix)
    await kafka.create_topic("in", partitions=1)
    app = counting(kafka, tmp_path, engine={"commit_deadline": 0.5})
    async with running(app) as engine:
        task = await task_of(engine)
        await eventually(lambda: task.quiet)
        embedded.faults.delay("EndTxn", 3.0)
        await publish(kafka, "in", WORDS)
        await eventually(lambda: task.checkpoints > 0 and task.quiet)
        assert await visible(kafka, app) == ALL
    assert await check_ledger(kafka, "count") == 1


async def test_5_nobody_fences_without_a_word_from_the_group(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka.create_topic("in", partitions=1)
    asked = asyncio.Event()
    fenced: list[str] = []

    async def dropped(consumer: Any, expected: int) -> bool:
        del consumer, expected
        asked.set()
        return False

    monkeypatch.setattr(seams, "heartbeat", dropped)
    with inject("task.after-fence", lambda: fenced.append("fenced")):
        async with running(counting(kafka, tmp_path)) as engine:
            task = await task_of(engine)
            await eventually(asked.is_set, within=20)
            await task.park(5)
    assert fenced == []


async def test_6_an_agents_error_leaves_nothing_and_the_batch_comes_again(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"poison", b"a"])
    app = counting(kafka, tmp_path)
    await run_once(app)
    assert await visible(kafka, app) == ([b"a 1", b"a 2"], {b"a": b"2"}, 3)
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    assert letter.value == b"poison"


async def test_7_a_restart_costs_the_changelogs_tail_and_not_the_state(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"%d" % number for number in range(100)])
    await run_once(counting(kafka, tmp_path))
    await publish(kafka, "in", [b"x"] * 10)
    app = counting(kafka, tmp_path)
    with inject("checkpoint.after-commit", halt):
        await halted(app)
    async with running(counting(kafka, tmp_path)) as engine:
        task = await task_of(engine)
        await eventually(lambda: task.quiet)
        assert 1 <= task.restored <= 10


async def test_8_a_full_buffer_pauses_its_partition(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=bytes, partitions=1)
    go_on = asyncio.Event()

    @app.batch_agent(source, within=0, max_records=2)
    async def slow(batches: Batches) -> None:
        async for _ in batches:
            await go_on.wait()

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [bytes(900_000)] * 30)
    async with running(app) as engine:
        task = await task_of(engine)
        await eventually(lambda: task._busy and task.pending > 0)
        # By number there would be room for more: each of these records is a fetch of its own.
        await eventually(lambda: not task.hungry, within=20)
        assert task.pending <= 8
        go_on.set()
        await eventually(lambda: task.quiet and task.position(source.name) == 30)


def doubling(kafka: BrokerUnderTest, state: Path, value_type: type) -> App:
    """Sends everything twice as large as it was."""
    app = make_app(kafka, state)
    source = app.topic(kafka.topic("in"), value_type=value_type, partitions=1)
    out = app.topic(kafka.topic("out"), value_type=value_type, partitions=1)

    @app.batch_agent(source, within=0, sink=out)
    async def double(batches: Batches) -> Any:
        async for batch in batches:
            for value in batch:
                yield 2 * value

    return app


async def test_9_bad_input_costs_a_dead_letter_with_its_coordinates(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = doubling(kafka, tmp_path, int)
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"1", b"{nonsense", b"3"])
    await run_once(app)
    output = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
    assert output == [b"2", b"6"]
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    headers = dict(letter.headers)
    assert letter.value == b"{nonsense"
    assert headers["streamapp-topic"] == kafka.topic("in").encode()
    assert (headers["streamapp-partition"], headers["streamapp-offset"]) == (b"0", b"1")


async def test_9_what_is_too_large_costs_a_dead_letter_that_fits(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = doubling(kafka, tmp_path, bytes)
    await kafka.create_topic("in", partitions=1)
    await kafka.create_topic("out", partitions=1, **{"max.message.bytes": 20_000})
    await kafka.create_topic("app-dead-letters", partitions=1, **{"max.message.bytes": 6_000})
    await publish(kafka, "in", [b"a", b"b" * 15_000, b"c"])
    await run_once(app)
    output = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
    assert output == [b"aa", b"cc"]
    [letter] = await read_all(kafka.bootstrap, f"{app.conf.id}-dead-letters")
    headers = dict(letter.headers)
    assert 1_000 < len(letter.value) < 6_000
    assert headers["streamapp-cut-from"] == b"15000"
    assert (headers["streamapp-partition"], headers["streamapp-offset"]) == (b"0", b"1")
