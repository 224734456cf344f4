"""What standbys survive: brokers that are away, stores and changelogs that are not as they should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import TopicAlreadyExistsError

from streamapp import App, Batches
from streamapp.broker import Broker
from streamapp.engine import standby
from streamapp.engine import stores as stores_module
from streamapp.engine.fetching import WholeBatches
from streamapp.engine.group import Group
from streamapp.engine.marker import MARKER_KEY, Marker, Progress, encode
from streamapp.engine.provision import TOMBSTONES_KEPT
from streamapp.engine.readers import Readers
from streamapp.engine.replay import Replay
from streamapp.engine.standby import Standby
from streamapp.engine.stores import TaskStores
from streamapp.faults import inject
from streamapp.state.store import StoreMemory, TableWrites
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.running import make_app, running
from tests.engine.test_engine import publish
from tests.engine.test_recovery import end_fetching
from tests.engine.test_standby import at_work, caught_up
from tests.polling import eventually

WORDS = [b"a", b"b", b"c", b"a"]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Engines that are entered here are stopped at the end of the test."""
    async with AsyncExitStack() as stack:
        yield stack


class Pair:
    """Two workers on a broker of the test's own, counting words in one task: the second follows."""

    def __init__(self, kafka: BrokerUnderTest, directory: Path) -> None:
        self.kafka = kafka
        self.directory = directory

    def app(self, name: str) -> App:
        return word_counting(self.kafka, self.directory / name, engine={"standby_replicas": 1})

    async def followed(self, group: Group) -> None:
        """Wait until the second worker has all that there is."""
        await eventually(lambda: group.standby.tasks == {0} and caught_up(group))

    def counts(self, group: Group) -> dict[str, int]:
        """What the store of a group's task holds."""
        prefix = b"counts\0"
        assert group.stores.is_open(0)
        pairs = group.stores.opened(0).scan(prefix, b"counts\1")
        return {key[len(prefix) :].decode(): int(value) for key, value in pairs}


def word_counting(kafka: BrokerUnderTest, state: Path, **options: Any) -> App:
    app = make_app(kafka, state, **options)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int, key_type=str)

    @app.batch_agent(source, within=0)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    return app


@pytest.fixture
async def pair(embedded: Broker, tmp_path: Path) -> Pair:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "standby-")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", WORDS)
    return Pair(kafka, tmp_path)


@pytest.fixture
async def owner(pair: Pair, stack: AsyncExitStack) -> Group:
    """The first worker's group, with the task at work."""
    [group] = (await stack.enter_async_context(running(pair.app("owner")))).groups
    await eventually(lambda: at_work(group) == {0})
    return group


async def test_while_the_broker_is_away_a_standby_waits(
    pair: Pair, owner: Group, embedded: Broker, stack: AsyncExitStack
) -> None:
    app = pair.app("other")
    embedded.faults.drop("Fetch", times=20)
    [other] = (await stack.enter_async_context(running(app))).groups
    await pair.followed(other)
    embedded.faults.drop("Fetch", times=20)
    await publish(pair.kafka, "in", WORDS)
    await eventually(lambda: pair.counts(other) == {"a": 4, "b": 2, "c": 2})
    assert app.failure is None


async def test_a_standbys_store_that_does_not_open_is_set_aside_and_made_anew(
    pair: Pair, owner: Group, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    path = pair.directory / "other" / "standby-app" / "worker-0" / "count" / "0"
    path.mkdir(parents=True)
    (path / "CURRENT").write_text("MANIFEST-000666\n")
    app = pair.app("other")
    [other] = (await stack.enter_async_context(running(app))).groups
    await eventually(lambda: pair.counts(other) == {"a": 2, "b": 1, "c": 1})
    assert "it is now" in caplog.text
    assert [p.name for p in path.parent.glob("0.corrupt-*")]
    assert app.failure is None


async def test_a_standby_whose_store_is_not_written_rests_and_goes_on(
    pair: Pair,
    owner: Group,
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(standby, "_REST", 0.1)
    app = pair.app("other")
    [other] = (await stack.enter_async_context(running(app))).groups
    await pair.followed(other)

    def full() -> None:
        raise OSError("no space left on device")

    with inject("standby.before-write", full):
        await publish(pair.kafka, "in", WORDS)
        await eventually(lambda: pair.counts(other) == {"a": 4, "b": 2, "c": 2})
    assert "count/0: standby: its store is not written: no space left on device" in caplog.text
    assert app.failure is None


CHANGELOG = "standby-app-counts-changelog"
CHECKPOINTS = "standby-app-count-checkpoint"
TABLES = {"counts": "one"}
MARKER = Marker(incarnation="first", sequence=1, tables=TABLES)


async def write_changelog(
    pair: Pair, *keys: bytes, policy: str = "compact", marker: Marker = MARKER
) -> None:
    """Write a marker, and rows."""
    for topic, cleanup in ((CHANGELOG, policy), (CHECKPOINTS, "compact")):
        with suppress(TopicAlreadyExistsError):
            await pair.kafka.create_topic(topic, partitions=1, cleanup_policy=cleanup)
    async with AIOKafkaProducer(bootstrap_servers=pair.kafka.bootstrap) as producer:
        await producer.send_and_wait(CHECKPOINTS, encode(marker), key=MARKER_KEY, partition=0)
        for key in keys:
            await producer.send_and_wait(CHANGELOG, b"1", key=key, partition=0)


@asynccontextmanager
async def following(pair: Pair) -> AsyncIterator[tuple[Standby, TaskStores]]:
    """A standby of the task by itself, without a group."""
    app = pair.app("other")
    [topology] = app.topologies()
    stores = TaskStores(topology, pair.directory / "other", StoreMemory(8 << 20), "")
    readers = Readers(app.kafka_options())
    alone = Standby(
        app.kafka_options(),
        topology,
        app.engine_settings,
        stores,
        readers,
        lambda: round(time.time() * 1000),
        stores.close,
        lambda: None,
    )
    alone.assign({0}, (), {})
    try:
        yield alone, stores
    finally:
        await alone.stop()
        await stores.close_all()
        await readers.close()


async def test_a_standby_notices_a_changelog_that_was_made_anew(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    await write_changelog(pair, b"a", b"b", b"c")
    async with following(pair) as (alone, stores):
        await eventually(lambda: alone.lags == {0: {CHANGELOG: 0}})
        async with admin_client(pair.kafka.bootstrap) as admin:
            await admin.delete_topics([CHANGELOG])
        await write_changelog(pair, b"x")
        await eventually(lambda: "it was deleted and made anew, or truncated" in caplog.text)
        await eventually(lambda: stores.positions() == {0: 1})
        assert stores.opened(0).get(b"counts\0a") is None, "what the old one had is in no changelog"
        assert stores.opened(0).get(b"counts\0x") == b"1"


async def cut(pair: Pair, before: int) -> None:
    """Delete the front of the changelog: one that is compacted alone gives up nothing."""
    async with admin_client(pair.kafka.bootstrap) as admin:
        gone = RecordsToDelete(before_offset=before)
        await admin.delete_records({TopicPartition(CHANGELOG, 0): gone})


async def test_a_standby_does_not_take_a_changelog_without_its_front(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standby, "_REST", 0.1)
    await write_changelog(pair, b"a", b"b", b"c", policy="delete")
    await cut(pair, 2)
    async with following(pair) as (alone, stores):
        await eventually(lambda: f"the front of {CHANGELOG} was cut, up to 2" in caplog.text)
        assert stores.positions() == {0: 0}
        # A reset has given up what was there.
        again = Marker(
            incarnation="second", reset=True, sequence=2, begins={"counts": 2}, tables=TABLES
        )
        await write_changelog(pair, b"d", marker=again)
        await eventually(lambda: alone.lags == {0: {CHANGELOG: 0}})
        assert stores.opened(0).get(b"counts\0b") is None
        assert stores.opened(0).get(b"counts\0c") == b"1"
        assert stores.positions() == {0: 4}


async def test_a_standby_that_lacks_what_was_cut_begins_anew(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standby, "_REST", 0.1)
    await write_changelog(pair, b"a", b"b", policy="delete")
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 2})
    again = Marker(incarnation="first", sequence=2, begins={"counts": 3}, tables=TABLES)
    await write_changelog(pair, b"c", b"d", marker=again)
    await cut(pair, 3)
    async with following(pair) as (alone, stores):
        await eventually(lambda: alone.lags == {0: {CHANGELOG: 0}})
        assert "is from 3 to 4, and it was read up to 2" in caplog.text
        assert stores.opened(0).get(b"counts\0a") is None
        assert stores.opened(0).get(b"counts\0d") == b"1"


async def test_a_table_that_was_not_declared_for_a_while_is_followed_from_its_beginning(
    pair: Pair,
) -> None:
    """Of what the store has of it, a row may be deleted, and the delete compacted away since."""
    await write_changelog(pair, b"a", b"b")
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 2})
        # As a worker leaves it whose code has no table of this name.
        without = Progress(marker=MARKER, positions={"old": 7}, at=round(time.time() * 1000))
        writes = TableWrites("counts", [(b"gone", b"7")])
        stores.opened(0).write([writes], encode(without))
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 2})
        assert stores.opened(0).get(b"counts\0gone") is None
        assert stores.opened(0).get(b"counts\0a") == b"1"
        progress = stores.progress(0)
        assert progress is not None
        assert progress.positions == {"counts": 2}, "should the other come back, it begins anew too"


async def test_a_table_that_has_come_back_is_another_one_to_a_standby(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (
        Marker(incarnation="first", sequence=sequence, tables={"counts": name})
        for sequence, name in ((1, "one"), (2, "two"))
    )
    await write_changelog(pair, b"a", b"b", marker=first)
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 2})
    async with admin_client(pair.kafka.bootstrap) as admin:
        await admin.delete_topics([CHANGELOG])
    await write_changelog(pair, b"x", b"y", b"z", marker=second)
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 3})
        assert "one of its tables was taken out, and has come back" in caplog.text
        assert stores.opened(0).get(b"counts\0a") is None
        assert stores.opened(0).get(b"counts\0x") == b"1"


async def test_after_a_reset_a_standby_without_a_store_follows(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    reset = Marker(incarnation="second", replaces="first", reset=True, sequence=2, tables=TABLES)
    await write_changelog(pair, b"a", b"b", marker=reset)
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 2})
    assert "made anew" not in caplog.text


async def test_a_standby_does_not_go_on_from_a_state_that_was_begun_anew(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    await write_changelog(pair, b"a", b"b", b"c")
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 3})
        progress = stores.progress(0)
        assert progress is not None
        assert (progress.marker.incarnation, progress.marker.sequence) == ("first", 0)
    async with admin_client(pair.kafka.bootstrap) as admin:
        await admin.delete_topics([CHANGELOG, CHECKPOINTS])
    # The new one has outgrown the old one.
    second = Marker(incarnation="second", sequence=1, tables=TABLES)
    await write_changelog(pair, *(b"x%d" % number for number in range(5)), marker=second)
    async with following(pair) as (_, stores):
        await eventually(lambda: stores.positions() == {0: 5})
        assert "the state was begun anew since" in caplog.text
        assert stores.opened(0).get(b"counts\0a") is None
        assert stores.opened(0).get(b"counts\0x0") == b"1"
        progress = stores.progress(0)
        assert progress is not None
        assert progress.marker.incarnation == "second"


async def test_what_was_fetched_of_a_task_that_is_no_longer_followed_is_not_written(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, go_on = asyncio.Event(), asyncio.Event()
    getmany = WholeBatches.getmany

    async def held(batches: WholeBatches, *partitions: Any, timeout_ms: int) -> Any:
        found = await getmany(batches, *partitions, timeout_ms=timeout_ms)
        if found:
            fetched.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(WholeBatches, "getmany", held)
    await write_changelog(pair, b"a", b"b", b"c")
    async with following(pair) as (alone, stores):
        await fetched.wait()
        store = stores.opened(0)
        alone.assign((), (), {})
        await alone.settled(0)
        monkeypatch.setattr(store, "write", lambda *_: pytest.fail("the store is the runner's"))
        go_on.set()
        await eventually(lambda: not stores.is_open(0))
        assert alone.records == 0


async def test_a_standby_that_was_away_longer_than_tombstones_are_kept_begins_anew(
    pair: Pair, owner: Group, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    app = pair.app("other")
    [other] = (await stack.enter_async_context(running(app))).groups
    await pair.followed(other)
    # A row whose deletion this store has missed.
    other.stores.opened(0).write([TableWrites("counts", [(b"gone", b"7")])], None)
    other.standby._clock = lambda: round(time.time() * 1000) + TOMBSTONES_KEPT + 1
    await eventually(lambda: pair.counts(other) == {"a": 2, "b": 1, "c": 1})
    assert "its store is too old; it is made anew" in caplog.text
    assert app.failure is None


async def test_whoever_takes_a_task_over_waits_for_what_is_being_written_of_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    apply = Replay.apply

    async def slow(replay: Replay, *arguments: Any) -> None:
        begun.set()
        await go_on.wait()
        await apply(replay, *arguments)

    monkeypatch.setattr(Replay, "apply", slow)
    await write_changelog(pair, b"a", b"b", b"c")
    async with following(pair) as (alone, stores):
        await begun.wait()
        alone.assign((), (), {})
        settling = asyncio.create_task(alone.settled(0))
        await asyncio.sleep(0)
        assert not settling.done()
        assert stores.is_open(0)
        go_on.set()
        await settling
        assert stores.positions() == {0: 3}
        await eventually(lambda: not stores.is_open(0))


async def test_a_stop_waits_for_what_is_being_written(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    apply = Replay.apply

    async def slow(replay: Replay, *arguments: Any) -> None:
        begun.set()
        await go_on.wait()
        await apply(replay, *arguments)

    monkeypatch.setattr(Replay, "apply", slow)
    await write_changelog(pair, b"a", b"b", b"c")
    async with following(pair) as (alone, stores):
        await begun.wait()
        stopping = asyncio.create_task(alone.stop())
        await eventually(lambda: alone._loop_task is not None and alone._loop_task.done())
        assert not stopping.done()
        go_on.set()
        await stopping
        assert stores.positions() == {0: 3}


async def test_a_standby_whose_consumer_has_ended_takes_another(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    begin = Standby._begin

    async def doomed(alone: Standby, consumer: Any) -> None:
        if not ended:
            ended.append(consumer)
            end_fetching(consumer)
        await begin(alone, consumer)

    monkeypatch.setattr(Standby, "_begin", doomed)
    await write_changelog(pair, b"a")
    async with following(pair) as (alone, stores):
        await eventually(lambda: alone.lags == {0: {CHANGELOG: 0}})
        assert stores.positions() == {0: 1}
        assert ended


async def test_a_standby_that_is_behind_is_as_old_as_when_it_was_not(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = round(time.time() * 1000)

    def at(stores: TaskStores) -> int:
        progress = stores.progress(0) if stores.is_open(0) else None
        return 0 if progress is None else progress.at

    await write_changelog(pair, b"a")
    async with following(pair) as (_, stores):
        await eventually(lambda: at(stores) >= now)
        current = at(stores)

    await write_changelog(pair, b"b", b"c")
    with monkeypatch.context() as patch:
        # As if the end of the changelog were further away than it is.
        patch.setattr(AIOKafkaConsumer, "last_stable_offset", lambda *_: 10)
        async with following(pair) as (alone, stores):
            await eventually(lambda: alone.records == 2)
            assert stores.positions() == {0: 3}
            assert at(stores) == current

    await write_changelog(pair, b"d")
    async with following(pair) as (alone, stores):
        await eventually(lambda: alone.records == 1)
        assert at(stores) > current


async def test_a_quiet_standby_is_told_that_it_is_up_to_date_while_the_broker_answers(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores_module, "_NOTED_EVERY", 100)
    await write_changelog(pair, b"a")
    in_the_dark = 0
    note = Standby._note

    def counted(alone: Standby, followed: Any, now: int, current: bool) -> None:
        nonlocal in_the_dark
        in_the_dark += not current
        note(alone, followed, now, current)

    monkeypatch.setattr(Standby, "_note", counted)

    async with following(pair) as (_, stores):

        def noted() -> int:
            progress = stores.progress(0) if stores.is_open(0) else None
            return 0 if progress is None else progress.at

        first = await eventually(noted)
        assert isinstance(first, int)
        await eventually(lambda: noted() > first)
        monkeypatch.setattr(standby, "_FRESH", -(10**6))  # as if it did not
        in_the_dark = 0
        await eventually(lambda: in_the_dark > 0)
        last = noted()
        await eventually(lambda: in_the_dark > 5)
        assert noted() == last
