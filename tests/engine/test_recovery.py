"""Recovery on a broker: what a task restores, what it waits for, and what it refuses."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from kio.schema.errors import ErrorCode

from streamapp import App, Batches, Count
from streamapp.broker import Broker
from streamapp.engine import producer, readers
from streamapp.engine.agreement import OffsetsDisagree
from streamapp.engine.engine import Engine
from streamapp.engine.fetching import WholeBatches
from streamapp.engine.provision import TOMBSTONES_KEPT
from streamapp.engine.readers import Reader
from streamapp.errors import StoreError
from streamapp.faults import inject
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle import Beginning, Reset
from streamapp.state.store import Store
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.running import make_app, run_once, running
from tests.engine.test_engine import publish
from tests.engine.workers import read_all, read_table
from tests.polling import eventually

#: A word that makes a record batch of its own larger than a small limit.
REFUSED = b"refused" * 20


def counting(kafka: BrokerUnderTest, state: Path, **options: Any) -> App:
    """An application that counts words in one task."""
    app = make_app(kafka, state, **options)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    out = app.topic(kafka.topic("out"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int, key_type=str)

    @app.batch_agent(source, within=0, max_records=10, sink=out)
    async def count(batches: Batches) -> Any:
        async for batch in batches:
            for word in batch:
                counts[word] += 1
                yield f"{word} {counts[word]}"

    return app


async def table_of(kafka: BrokerUnderTest, app: App) -> dict[bytes, bytes]:
    return await read_table(kafka.bootstrap, f"{app.conf.id}-counts-changelog")


async def delete(kafka: BrokerUnderTest, *topics: str) -> None:
    """Delete topics, and wait until they are gone."""
    async with admin_client(kafka.bootstrap) as admin:
        await admin.delete_topics([*topics])

        async def gone() -> bool:
            return not {*topics} & {*await admin.list_topics()}

        await eventually(gone)


def end_fetching(consumer: Any) -> None:
    """Have a consumer end as it does when it cannot take an answer."""

    async def fail(*_: Any) -> Any:
        raise ValueError("an answer that nobody can read")

    consumer._fetcher._proc_fetch_request = fail


async def opened(engine: Engine) -> Any:
    """The one task's runner, once it is open."""

    def found() -> Any:
        if engine.app.failure is not None:
            raise engine.app.failure
        return next((r for g in engine.groups for r in g.runners.values() if r.quiet), None)

    return await eventually(found)


async def test_a_restart_restores_nothing_when_its_store_is_there(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"] * 20)
    await run_once(counting(kafka, tmp_path))

    async with running(counting(kafka, tmp_path)) as engine:
        runner = await opened(engine)
        assert runner.restored == 0
        assert runner.task.marker.sources == {kafka.topic("in"): 60}


async def test_a_lost_store_is_restored_from_the_changelog(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"] * 20)
    await run_once(counting(kafka, tmp_path))
    shutil.rmtree(tmp_path)

    await publish(kafka, "in", [b"a"])
    app = counting(kafka, tmp_path)
    await run_once(app)
    assert await table_of(kafka, app) == {b"a": b"41", b"b": b"20"}
    output = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
    assert output[-1] == b"a 41"
    assert len(output) == 61


async def test_a_restore_that_was_killed_goes_on_where_it_was(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [b"%05d" % number for number in range(5_000)]
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", words)
    app = counting(kafka, tmp_path)
    await run_once(app)
    shutil.rmtree(tmp_path)

    # Small fetches: of some fifty, it is killed in the tenth.
    monkeypatch.setattr(readers, "_FETCH_BYTES", 8_192)
    killed = RuntimeError("killed")

    def kill() -> None:
        raise killed

    with inject("restore.written", kill, nth=10), pytest.raises(RuntimeError, match="killed"):
        await run_once(counting(kafka, tmp_path))
    async with running(counting(kafka, tmp_path)) as engine:
        runner = await opened(engine)
        assert 0 < runner.restored < 4_900
    await publish(kafka, "in", words)
    app = counting(kafka, tmp_path)
    await run_once(app)
    assert set((await table_of(kafka, app)).values()) == {b"2"}


async def test_a_restore_whose_reader_has_ended_takes_another(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    await run_once(counting(kafka, tmp_path))
    ended = []
    start = Reader.start

    async def doomed(reader: Reader) -> None:
        await start(reader)
        if not ended:
            ended.append(reader)
            end_fetching(reader._consumer)

    monkeypatch.setattr(Reader, "start", doomed)
    async with running(counting(kafka, tmp_path)) as engine:
        await opened(engine)
        assert ended


async def test_an_open_waits_for_a_transaction_on_its_changelog(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    await run_once(counting(kafka, tmp_path))
    app = counting(kafka, tmp_path)
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"{kafka.prefix}stranger"
    ) as stranger:
        await stranger.begin_transaction()
        await stranger.send_and_wait(f"{app.conf.id}-counts-changelog", b"7", key=b"z", partition=0)
        async with running(app) as engine:
            await eventually(lambda: bool(engine.groups[0].runners))
            runner = engine.groups[0].runners[0]
            await eventually(lambda: runner._producer.is_open)
            assert not runner.quiet
            await stranger.abort_transaction()
            await opened(engine)
            assert runner.restored == 0


async def test_an_open_that_waits_for_too_long_says_for_what_and_begins_anew(
    kafka: BrokerUnderTest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(readers, "WAIT_MOST", 0.2)
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    await run_once(counting(kafka, tmp_path))
    app = counting(kafka, tmp_path)
    changelog = f"{app.conf.id}-counts-changelog"
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"{kafka.prefix}stranger"
    ) as stranger:
        await stranger.begin_transaction()
        await stranger.send_and_wait(changelog, b"7", key=b"z", partition=0)
        async with running(app) as engine:
            said = f"a transaction has been open below {changelog}[0]"
            await eventually(lambda: said in caplog.text)
            assert "kafka-transactions.sh find-hanging" in caplog.text
            monkeypatch.undo()
            await stranger.abort_transaction()
            await opened(engine)


async def test_a_restore_of_which_nothing_comes_is_begun_anew(
    embedded: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(readers, "WAIT_MOST", 1.0)
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "held-")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    await run_once(counting(kafka, tmp_path / "1"))
    getmany = WholeBatches.getmany
    held: list[Any] = []

    async def nothing(batches: WholeBatches, *partitions: Any, timeout_ms: int) -> Any:
        # Of the first reader, which somebody has to give up.
        if not held:
            held.append(batches)
        if batches is held[0]:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        return await getmany(batches, *partitions, timeout_ms=timeout_ms)

    app = counting(kafka, tmp_path / "2")
    async with running(app) as engine:
        monkeypatch.setattr(WholeBatches, "getmany", nothing)
        runner = await opened(engine)
        assert runner.restored == 1
        # What it restored counts as getting on, before there is a checkpoint.
        assert runner.steps > runner.checkpoints
    assert "nothing was read of held-app-count-checkpoint[0] at" in caplog.text


async def test_a_fence_that_is_not_given_is_asked_for_anew(
    embedded: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """aiokafka would ask for as long as it is told to; the log would have nothing of it."""
    monkeypatch.setattr(producer, "_OPEN_WITHIN", 2.0)
    monkeypatch.setattr(producer, "_SAY_AFTER", 0.5)
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "fence-")
    await kafka.create_topic("in", partitions=1)
    embedded.faults.fail("InitProducerId", ErrorCode.concurrent_transactions, times=1_000_000)
    async with running(counting(kafka, tmp_path)) as engine:
        said = "no coordinator has given out the transactional id fence-app-count-0"
        await eventually(lambda: said in caplog.text)
        assert "fence-app-count-0 waits for a coordinator" in caplog.text
        embedded.faults.clear()
        await opened(engine)


async def test_a_changelog_that_was_made_anew_is_refused(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b"] * 20)
    app = counting(kafka, tmp_path)
    await run_once(app)
    changelog = f"{app.conf.id}-counts-changelog"
    await delete(kafka, changelog)
    with pytest.raises(StoreError, match="deleted and made anew, or truncated"):
        await run_once(counting(kafka, tmp_path))


async def test_a_task_that_has_had_nothing_to_do_yet_notes_nothing_that_is_not_so(
    embedded: Broker, tmp_path: Path
) -> None:
    """It has no checkpoint, and the names that its state will have are in no marker."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "quiet-")
    await kafka.create_topic("in", partitions=1)
    async with running(counting(kafka, tmp_path)) as engine:
        runner = await opened(engine)
        noted_at = runner.task.noted_at
        engine.groups[0].stores.noted_every = 1
        await eventually(lambda: runner.task.noted_at > noted_at)
    await publish(kafka, "in", [b"a"])
    await run_once(counting(kafka, tmp_path))


async def test_a_task_that_has_nothing_to_do_keeps_its_store_young(
    embedded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was not away; but whether it has missed something, the group alone knows."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "quiet-")
    async with running(counting(kafka, tmp_path)) as engine:
        runner = await opened(engine)
        await publish(kafka, "in", [b"a"])
        await eventually(lambda: runner.checkpoints > 0 and runner.quiet)
        [group] = engine.groups

        def young(by: float) -> bool:
            progress = group.stores.progress(0)
            assert progress is not None
            return progress.at > time.time() * 1000 + by * TOMBSTONES_KEPT

        asked: list[int] = []

        async def unknown(epoch: int) -> bool:
            asked.append(epoch)
            return False

        def later(share: float) -> None:
            clock = group.surroundings.clock
            ahead = replace(
                group.surroundings, clock=lambda: clock() + round(share * TOMBSTONES_KEPT)
            )
            monkeypatch.setattr(group, "surroundings", ahead)

        with monkeypatch.context() as patch:
            patch.setattr(group.membership, "confirmed", unknown)
            later(0.4)
            await eventually(lambda: asked)
        assert not young(0)
        later(0.4)
        await eventually(lambda: young(0.7))


@pytest.mark.parametrize("checkpoints", [1, 2])
async def test_a_changelog_that_lost_what_the_last_checkpoint_wrote_is_refused(
    kafka: BrokerUnderTest, tmp_path: Path, checkpoints: int
) -> None:
    """Without a store on this host: all that is known of the changelog is in the marker."""
    await kafka.create_topic("in", partitions=1)
    app = counting(kafka, tmp_path / "1")
    for _ in range(checkpoints):
        await publish(kafka, "in", [b"a", b"b", b"a"])
        await run_once(counting(kafka, tmp_path / "1"))
    changelog = f"{app.conf.id}-counts-changelog"
    kept = [record.value for record in await read_all(kafka.bootstrap, changelog)][:-2]
    await delete(kafka, changelog)
    await kafka.create_topic("app-counts-changelog", partitions=1, **{"cleanup.policy": "compact"})
    # As many offsets as the checkpoint before the last one has left.
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for value in [*kept, *kept[:1]]:
            await producer.send_and_wait(changelog, value, key=b"a")
    with pytest.raises(StoreError, match="deleted and made anew, or truncated"):
        await run_once(counting(kafka, tmp_path / "2"))


async def test_a_checkpoint_waits_beside_the_event_loop_for_a_store_that_is_stalled(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka.create_topic("in", partitions=1)
    app = counting(kafka, tmp_path)
    async with running(app) as engine:
        runner = await opened(engine)
        looks = iter([True, True, True])
        left: list[bool] = []

        def stalled(store: Store) -> bool:
            left.append(next(looks, False))
            return left[-1]

        monkeypatch.setattr(Store, "stalled", property(stalled))
        await publish(kafka, "in", [b"a"])
        await eventually(lambda: runner.checkpoints > 0)
        assert left[:4] == [True, True, True, False]


async def test_a_copy_of_a_state_whose_topics_were_made_anew_is_not_gone_on_from(
    kafka: BrokerUnderTest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However far the new ones have come: a worker that was away meanwhile knows them by their incarnation."""
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"gone"])
    app = counting(kafka, tmp_path / "1")
    await run_once(app)
    await delete(kafka, f"{app.conf.id}-counts-changelog", f"{app.conf.id}-count-checkpoint")
    with pytest.raises(OffsetsDisagree, match="has no checkpoint"):
        await run_once(counting(kafka, tmp_path / "2"))
    async with LedgerReader(app.kafka_options()) as reader:
        await Reset(app, reader, app.topologies(), Beginning("latest")).run()
    for word in (b"a", b"b", b"c", b"d"):
        await publish(kafka, "in", [word])
        await run_once(counting(kafka, tmp_path / "2"))
    await run_once(counting(kafka, tmp_path / "1"))
    assert "the state was begun anew since" in caplog.text
    assert len(list((tmp_path / "1").rglob("0.outdated-*"))) == 1

    await publish(kafka, "in", [b"gone", b"a"])
    app = counting(kafka, tmp_path / "1")
    await run_once(app)
    assert await table_of(kafka, app) == dict.fromkeys((b"b", b"c", b"d", b"gone"), b"1") | {
        b"a": b"2"
    }


async def test_a_changelog_that_is_made_anew_under_a_worker_ends_it_before_the_commit(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b"] * 20)
    app = counting(kafka, tmp_path)
    changelog = f"{app.conf.id}-counts-changelog"
    async with running(app) as engine:
        runner = await opened(engine)
        await eventually(lambda: runner.quiet and runner.position(kafka.topic("in")) == 40)
        checkpoints = runner.checkpoints
        async with admin_client(kafka.bootstrap) as admin:
            await admin.delete_topics([changelog])

            async def made() -> bool:
                compacted = {"cleanup.policy": "compact"}
                answer = await admin.create_topics(
                    [NewTopic(changelog, 1, 1, topic_configs=compacted)]
                )
                return answer.topic_errors[0][1] == 0

            await eventually(made)
        await publish(kafka, "in", [b"c"])
        await eventually(lambda: app.failure is not None)
        assert runner.checkpoints == checkpoints
    with pytest.raises(StoreError, match="deleted and made anew, or truncated"):
        raise app.failure
    assert await table_of(kafka, app) == {}


async def test_a_refused_changelog_batch_never_ends_in_a_commit(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b"] * 20)
    app = counting(kafka, tmp_path)
    await run_once(app)
    changelog = f"{app.conf.id}-counts-changelog"
    committed = await table_of(kafka, app)

    app = counting(kafka, tmp_path)
    async with running(app) as engine:
        runner = await opened(engine)
        checkpoints = runner.checkpoints
        # A commit marker takes 78 bytes: it must still fit, or the transaction never ends.
        await set_limit(kafka, changelog, 120)
        opens_anew = asyncio.Event()
        with inject("task.before-fence", opens_anew.set):
            await publish(kafka, "in", [REFUSED])
            await opens_anew.wait()
        assert runner.checkpoints == checkpoints
        assert await table_of(kafka, app) == committed
        output = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
        assert REFUSED + b" 1" not in output

        await set_limit(kafka, changelog, 1_000_000)
        await eventually(lambda: runner.checkpoints > checkpoints)
    assert (await table_of(kafka, app))[REFUSED] == b"1"
    output = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
    assert output.count(REFUSED + b" 1") == 1


async def set_limit(kafka: BrokerUnderTest, topic: str, limit: int) -> None:
    """Set how large a record batch a topic takes."""
    async with admin_client(kafka.bootstrap) as admin:
        await admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC,
                    topic,
                    configs={"cleanup.policy": "compact", "max.message.bytes": str(limit)},
                )
            ]
        )


async def test_windows_of_another_shape_over_old_state_are_refused(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    def windowed(size: float, step: float) -> App:
        app = make_app(kafka, tmp_path)
        source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
        counts = app.BatchTable("counts", aggregate=Count(), key_type=str).hopping(size, step)

        @app.batch_agent(source, within=0)
        async def count(batches: Batches) -> None:
            async for batch in batches:
                for word in batch:
                    counts[word] += 1

        return app

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b"])
    await run_once(windowed(30, 10))
    await run_once(windowed(30, 10))
    with pytest.raises(
        StoreError, match="30000 ms every 10000 ms, it is declared with 60000 every 10000"
    ):
        await run_once(windowed(60, 10))


async def test_a_store_of_another_cluster_is_set_aside_and_made_anew(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"])
    async with Broker(port=0) as other:
        stranger = BrokerUnderTest(other.bootstrap, "embedded", kafka.prefix)
        await stranger.create_topic("in", partitions=1)
        await publish(stranger, "in", [b"x"] * 40)
        await run_once(counting(stranger, tmp_path))

    app = counting(kafka, tmp_path)
    await run_once(app)
    assert await table_of(kafka, app) == {b"a": b"2", b"b": b"1"}
    stores = tmp_path / app.conf.id / "worker-0" / "count"
    assert len([path for path in stores.iterdir() if ".foreign-" in path.name]) == 1


async def test_a_full_buffer_is_not_filled_on(kafka: BrokerUnderTest, tmp_path: Path) -> None:
    app = make_app(kafka, tmp_path)
    source = app.topic(kafka.topic("in"), value_type=bytes, partitions=1)
    go_on = asyncio.Event()

    @app.batch_agent(source, within=0, max_records=10_000)
    async def slow(batches: Batches) -> None:
        async for _ in batches:
            await go_on.wait()

    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [bytes(900_000)] * 60)
    async with running(app) as engine:
        await eventually(lambda: bool(engine.groups[0].runners))
        runner = engine.groups[0].runners[0]
        await eventually(lambda: runner._busy and runner.pending > 0 and not runner.hungry)
        # By number there would be room for all; each of these records is a fetch of its own.
        assert 0 < runner.pending < 40
        go_on.set()
        await eventually(lambda: runner.quiet and runner.position(source.name) == 60)
