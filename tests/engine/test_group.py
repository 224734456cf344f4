"""A worker's member of the group: what it survives, what ends it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import CorruptRecordException, KafkaError, SaslAuthenticationFailed
from kio.schema.errors import ErrorCode

from streamapp import App, Batches
from streamapp.broker import Broker
from streamapp.engine import agent, opening, seams
from streamapp.engine.agreement import OffsetsDisagree
from streamapp.engine.engine import Engine
from streamapp.engine.group import Group
from streamapp.engine.producer import OutputProducer
from streamapp.engine.restore import Restore
from streamapp.engine.runner import TaskRunner
from streamapp.errors import StreamappError
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.running import make_app, run_once, running
from tests.engine.test_engine import publish
from tests.engine.workers import read_all
from tests.polling import eventually


@pytest.fixture
async def kafka(embedded: Broker) -> BrokerUnderTest:
    """A broker of the test's own, with a source of two partitions."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "group-")
    await kafka.create_topic("in", partitions=2)
    return kafka


class Echo:
    """An application that sends what it reads; `go_on` holds it within a batch."""

    def __init__(self, kafka: BrokerUnderTest, state: Path, **options: Any) -> None:
        self.app: App = make_app(kafka, state, **options)
        self.kafka = kafka
        self.busy = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        #: Seconds that the agent takes to end when it is stopped.
        self.slow_end = 0.0
        source = self.app.topic(kafka.topic("in"), value_type=bytes)
        out = self.app.topic(kafka.topic("out"), value_type=bytes, partitions=1)

        @self.app.batch_agent(source, within=0)
        async def echo(batches: Batches) -> None:
            try:
                async for batch in batches:
                    for value in batch:
                        await out.send(value=value)
                    self.busy.set()
                    await self.go_on.wait()
            finally:
                await asyncio.sleep(self.slow_end)

    async def output(self) -> list[bytes]:
        """What it has sent, in order of value."""
        return sorted(
            r.value for r in await read_all(self.kafka.bootstrap, self.kafka.topic("out"))
        )

    async def sent(self, *values: bytes) -> None:
        """Wait until exactly these are sent."""

        async def all_there() -> bool:
            found = await self.output()
            assert len(found) <= len(values), found
            return found == sorted(values)

        await eventually(all_there, within=20)


@pytest.fixture
async def echo(kafka: BrokerUnderTest, tmp_path: Path) -> AsyncIterator[Echo]:
    """The application, let go at the end."""
    echo = Echo(kafka, tmp_path)
    yield echo
    echo.go_on.set()


async def opened(engine: Engine) -> Group:
    """The one group of an engine, once its two tasks are open."""
    [group] = engine.groups
    await eventually(lambda: [r.quiet for r in group.runners.values()] == [True, True])
    return group


def left_behind() -> list[str]:
    """Tasks of the engine that are still there."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("task ", "close ", "fetch ", "agent "))]


# ---------------------------------------------------------------------- what the group says


async def test_a_group_that_refuses_the_worker_ends_it(embedded: Broker, echo: Echo) -> None:
    embedded.faults.fail("JoinGroup", ErrorCode.group_authorization_failed, times=100)
    async with running(echo.app):
        failure = await eventually(lambda: echo.app.failure, within=10)
    assert isinstance(failure, StreamappError)
    assert "group-app-echo cannot be joined" in str(failure)


async def test_a_worker_joins_after_an_error_that_passes(embedded: Broker, echo: Echo) -> None:
    embedded.faults.fail("JoinGroup", ErrorCode.unknown_server_error, times=2)
    async with running(echo.app):
        await publish(echo.kafka, "in", [b"a"])
        await echo.sent(b"a")


async def test_a_rebalance_that_fails_once_is_not_the_end(embedded: Broker, echo: Echo) -> None:
    async with running(echo.app) as engine:
        group = await opened(engine)
        assert group.consumer is not None
        embedded.faults.fail("JoinGroup", ErrorCode.unknown_server_error)
        group.consumer._coordinator.request_rejoin()
        await eventually(lambda: not embedded.faults.active)
        await publish(echo.kafka, "in", [b"a"])
        await echo.sent(b"a")


async def test_a_client_that_has_ended_ends_the_worker(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(echo.app) as engine:
        group = await opened(engine)
        assert group.consumer is not None

        async def broken(*_: Any) -> bool:
            raise ValueError("what came is no answer")

        monkeypatch.setattr(group.consumer._fetcher, "_proc_fetch_request", broken)
        failure = await eventually(lambda: echo.app.failure, within=10)
    assert "ValueError: what came is no answer" in str(failure)


async def test_a_topic_that_grows_ends_the_worker(echo: Echo) -> None:
    async with running(echo.app) as engine:
        group = await opened(engine)
        await group.on_partitions_assigned({TopicPartition("group-in", 1)})
        assert echo.app.failure is None
        engine.groups[0].surroundings.partitions["group-in"] = 1
        await group.on_partitions_assigned({TopicPartition("group-in", 1)})
        assert "group-in had 1 partitions when the worker started" in str(echo.app.failure)


# ---------------------------------------------------------------------- what tasks wait for


async def test_a_task_opens_anew_when_what_it_waits_for_is_cancelled(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = OutputProducer._start
    never = asyncio.Event()
    starts: list[int] = []

    async def slow(output: OutputProducer) -> Any:
        starts.append(1)
        if len(starts) == 1:
            await never.wait()
        return await start(output)

    monkeypatch.setattr(OutputProducer, "_start", slow)
    echo = Echo(kafka, tmp_path, processing_guarantee="at_least_once")
    async with running(echo.app) as engine:
        group = await opened(engine)
        await publish(kafka, "in", [b"a"])
        await eventually(lambda: starts)
        # As it is closed for all tasks when another one's delivery has failed.
        await group.output.close()
        await echo.sent(b"a")
        assert echo.app.failure is None
    assert left_behind() == []


async def test_a_worker_that_the_group_has_replaced_does_not_ask_who_reset_its_offsets(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(echo.kafka, "in", [b"a"])
    await run_once(echo.app)
    heartbeat = seams.heartbeat
    stalled, asked = asyncio.Event(), asyncio.Event()

    async def checked(*_: Any) -> None:
        if not stalled.is_set():
            stalled.set()
            raise OffsetsDisagree("the next owner has committed since the marker was read")

    async def refused_once(*member: Any) -> bool:
        if stalled.is_set() and not asked.is_set():
            asked.set()
            return False
        return await heartbeat(*member)

    monkeypatch.setattr(opening, "check_agreement", checked)
    monkeypatch.setattr(seams, "heartbeat", refused_once)
    again = Echo(echo.kafka, tmp_path)
    async with running(again.app):
        await publish(echo.kafka, "in", [b"b"])
        await again.sent(b"a", b"b")
        assert again.app.failure is None
    assert asked.is_set()


# ---------------------------------------------------------------------- what is fetched


async def test_what_a_failed_fetch_had_of_other_partitions_is_read_again(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # aiokafka drains one partition after the other; an error in one throws away what it had by then.
    async with running(echo.app) as engine:
        group = await opened(engine)
        assert group.consumer is not None
        getmany = group.consumer.getmany
        failures = iter([CorruptRecordException("Invalid CRC")])

        async def failing(*partitions: TopicPartition, **options: Any) -> Any:
            found = await getmany(*partitions, **options)
            if found and (failure := next(failures, None)) is not None:
                raise failure
            return found

        monkeypatch.setattr(group.consumer, "getmany", failing)
        await publish(echo.kafka, "in", [b"a", b"b"])
        await echo.sent(b"a", b"b")
        await publish(echo.kafka, "in", [b"c"])
        await echo.sent(b"a", b"b", b"c")


async def test_records_that_retention_took_are_skipped_even_if_nobody_says_at_first_where_to(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(echo.kafka, "in", [b"a"] * 3)
    await run_once(echo.app)
    await publish(echo.kafka, "in", [b"gone"] * 5 + [b"b"])
    async with admin_client(echo.kafka.bootstrap) as admin:
        tp = TopicPartition("group-in", 0)
        await admin.delete_records({tp: RecordsToDelete(before_offset=8)})

    find = AIOKafkaConsumer.beginning_offsets
    failures = iter([KafkaError("not now")])

    async def failing(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> Any:
        if partitions == [tp] and (failure := next(failures, None)) is not None:
            raise failure
        return await find(consumer, partitions)

    monkeypatch.setattr(AIOKafkaConsumer, "beginning_offsets", failing)
    again = Echo(echo.kafka, tmp_path)
    async with running(again.app):
        await again.sent(b"a", b"a", b"a", b"b")
        assert next(failures, None) is None
        assert again.app.failure is None


async def test_what_retention_took_is_told_once_even_if_the_next_fetch_fails(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(echo.kafka, "in", [b"a"] * 3)
    await run_once(echo.app)
    await publish(echo.kafka, "in", [b"gone"] * 5 + [b"b"])
    async with admin_client(echo.kafka.bootstrap) as admin:
        tp = TopicPartition("group-in", 0)
        await admin.delete_records({tp: RecordsToDelete(before_offset=8)})

    jump, getmany = Group._jump, AIOKafkaConsumer.getmany
    jumped, failed = asyncio.Event(), asyncio.Event()

    async def jumping(group: Group, *where: Any) -> None:
        await jump(group, *where)
        jumped.set()

    async def failing(consumer: AIOKafkaConsumer, *partitions: Any, **options: Any) -> Any:
        if jumped.is_set() and not failed.is_set():
            failed.set()
            raise CorruptRecordException("Invalid CRC of a neighbour")
        return await getmany(consumer, *partitions, **options)

    monkeypatch.setattr(Group, "_jump", jumping)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", failing)
    again = Echo(echo.kafka, tmp_path)
    async with running(again.app):
        await again.sent(b"a", b"a", b"a", b"b")
    assert failed.is_set()
    ledger = await read_all(echo.kafka.bootstrap, "group-app-echo-ledger")
    told = [jump for record in ledger for jump in msgspec.json.decode(record.value)["jumps"]]
    assert [(jump["from"], jump["until"]) for jump in told] == [(3, 8)]


async def test_a_source_that_was_made_anew_ends_the_worker(echo: Echo, tmp_path: Path) -> None:
    await publish(echo.kafka, "in", [b"a"] * 5)
    await run_once(echo.app)
    async with admin_client(echo.kafka.bootstrap) as admin:
        await admin.delete_topics(["group-in"])
    await echo.kafka.create_topic("in", partitions=2)
    await publish(echo.kafka, "in", [b"b"] * 3)

    with pytest.raises(
        StreamappError, match=r"group-in\[0\] ends at 3, and echo/0 has read up to 5"
    ):
        await run_once(Echo(echo.kafka, tmp_path).app)
    assert await echo.output() == [b"a"] * 5


async def test_while_the_broker_does_not_answer_nobody_is_caught_up(
    embedded: Broker, echo: Echo
) -> None:
    # Else a partition passes for quiet, and event time goes on without what is waiting in it.
    async with running(echo.app) as engine:
        group = await opened(engine)
        tp = TopicPartition("group-in", 0)
        await eventually(lambda: group.caught_up(tp))
        embedded.faults.delay("Fetch", 30.0)
        await eventually(lambda: not group.caught_up(tp), within=10)


# ---------------------------------------------------------------------- coming and going


async def test_a_stop_in_the_middle_of_a_rebalance_finishes_the_batch_and_leaves_nothing(
    echo: Echo,
) -> None:
    echo.go_on.clear()
    async with running(echo.app) as engine:
        group = await opened(engine)
        assert group.consumer is not None
        await publish(echo.kafka, "in", [b"a"])
        await echo.busy.wait()
        epoch = group.epoch
        group.consumer._coordinator.request_rejoin()
        await eventually(lambda: group.epoch > epoch)
        stopping = asyncio.create_task(engine.stop())
        await eventually(lambda: group._stopped)
        await asyncio.sleep(0)
        echo.go_on.set()
        await stopping
        assert echo.app.failure is None
        assert group.runners == {}
        assert left_behind() == []
    await echo.sent(b"a")


async def test_an_assignment_that_comes_during_a_stop_starts_nothing(echo: Echo) -> None:
    echo.go_on.clear()
    async with running(echo.app) as engine:
        group = await opened(engine)
        await publish(echo.kafka, "in", [b"a"])
        await echo.busy.wait()
        stopping = asyncio.create_task(engine.stop())
        await eventually(lambda: group.epoch and not group.runners[0].position_known)
        await group.on_partitions_assigned({TopicPartition("group-in", p) for p in (0, 1)})
        echo.go_on.set()
        await stopping
        assert left_behind() == []


async def test_a_task_that_comes_back_waits_until_its_store_is_closed(echo: Echo) -> None:
    echo.slow_end = 0.5
    async with running(echo.app) as engine:
        group = await opened(engine)
        await publish(echo.kafka, "in", [b"a"])
        await echo.sent(b"a")
        everything = {TopicPartition("group-in", p) for p in (0, 1)}
        for assigned in (set[TopicPartition](), everything):
            await group.on_partitions_revoked(everything)
            await group.on_partitions_assigned(assigned)
        await opened(engine)
        await publish(echo.kafka, "in", [b"b"])
        await echo.sent(b"a", b"b")
        assert echo.app.failure is None


async def test_a_restore_is_interrupted_when_its_partition_goes(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    run = Restore.run
    endless, last = iter([True, True]), iter([False, True])

    async def long(restore: Restore) -> tuple[Any, Mapping[str, int]]:
        if next(endless, False):
            if next(last, False):
                begun.set()
            await asyncio.Event().wait()
        return await run(restore)

    monkeypatch.setattr(Restore, "run", long)
    async with running(echo.app) as engine:
        await begun.wait()
        [group] = engine.groups
        assert group.consumer is not None
        async with asyncio.timeout(10):
            group.consumer._coordinator.request_rejoin()
            await opened(engine)


async def test_a_group_that_cannot_start_says_why_and_lets_go_of_the_workers_name(
    echo: Echo, kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = AIOKafkaConsumer.start

    async def failing(consumer: AIOKafkaConsumer) -> None:
        if consumer._group_id is not None:
            raise SaslAuthenticationFailed("no entry")
        await start(consumer)

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaConsumer, "start", failing)
        with pytest.raises(StreamappError, match=r"no entry: see to broker_credentials"):
            async with running(echo.app):
                pass
    await run_once(Echo(kafka, tmp_path, worker_name="worker-0").app)


async def test_a_task_that_does_not_park_ends_the_worker_and_starts_no_second_time(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(echo.app) as engine:
        group = await opened(engine)
        await publish(echo.kafka, "in", [b"a"])
        await publish(echo.kafka, "in", [b"b"], 1)
        await echo.sent(b"a", b"b")
        parked = []
        park = TaskRunner.park

        async def failing(runner: TaskRunner, within: float) -> None:
            await park(runner, within)
            parked.append(runner.partition)
            if runner.partition == 0 and len(parked) <= 2:
                raise RuntimeError("not today")

        monkeypatch.setattr(TaskRunner, "park", failing)
        await group.on_partitions_revoked({TopicPartition("group-in", p) for p in (0, 1)})
        assert sorted(parked) == [0, 1]
        assert str(echo.app.failure) == "not today"


async def test_an_agent_that_will_not_end_ends_the_worker_in_bounded_time(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_CANCEL_EVERY", 0.01)
    app = make_app(kafka, tmp_path, engine={"rebalance_timeout": 0.5})
    begun, released = asyncio.Event(), asyncio.Event()

    @app.batch_agent(app.topic(kafka.topic("in"), value_type=bytes), within=0)
    async def go_on(batches: Batches) -> None:
        async for _ in batches:
            begun.set()
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()
            return

    async with running(app) as engine:
        await opened(engine)
        await publish(kafka, "in", [b"a"])
        await begun.wait()
        async with asyncio.timeout(10):
            await engine.stop()
        assert "go_on was cancelled 10 times and goes on" in str(app.failure)
        released.set()
    await eventually(lambda: left_behind() == [])
