"""Broker trouble: the worker waits, says so once, and goes on without help; its output stays exact."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from kio.schema.errors import ErrorCode

from streamapp import App, Batches
from streamapp.broker import Broker
from streamapp.broker.faults import Faults
from streamapp.clients import COMMON
from streamapp.engine.engine import Engine
from streamapp.errors import StreamappError
from streamapp.faults import inject
from streamapp.ledger import reading
from streamapp.ledger.errors import LedgerError
from streamapp.ledger.reading import LedgerReader
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, run_once, running
from tests.engine.test_engine import publish
from tests.engine.test_recovery import counting, opened
from tests.engine.workers import read_all
from tests.kafka.server import KafkaCluster, KafkaServer
from tests.polling import PATIENCE, eventually

Trouble = Callable[[Faults], None]

#: What the log may say, in lines of the engine, of one trouble that passes.
MOST_LINES = 6


def failing(error: ErrorCode, *apis: str, times: int = 2) -> Trouble:
    """Every one of some APIs answers with an error for a while."""

    def arm(faults: Faults) -> None:
        for api in apis:
            faults.fail(api, error, times)

    return arm


def losing(*apis: str) -> Trouble:
    """The answer is lost: what was asked has happened, and nobody knows."""

    def arm(faults: Faults) -> None:
        for api in apis:
            faults.drop(api, when="after")

    return arm


def slow(*apis: str) -> Trouble:
    """The broker throttles: it answers later."""

    def arm(faults: Faults) -> None:
        for api in apis:
            faults.delay(api, 0.5, times=2)

    return arm


def refusing(error: ErrorCode) -> Trouble:
    """The broker refuses a batch of the output."""

    def arm(faults: Faults) -> None:
        faults.refuse_batch("trouble-out", 0, error)

    return arm


TRANSACTION = ("AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn")
TROUBLES: dict[str, Trouble] = {
    "the transaction coordinator moves": failing(ErrorCode.not_coordinator, *TRANSACTION),
    "the group coordinator moves": failing(
        ErrorCode.not_coordinator, "TxnOffsetCommit", "Heartbeat", "FindCoordinator"
    ),
    "a coordinator loads": failing(
        ErrorCode.coordinator_load_in_progress, *TRANSACTION, "TxnOffsetCommit"
    ),
    "a leader moves": failing(ErrorCode.not_leader_or_follower, "Produce", "Fetch"),
    "the transaction before still ends": failing(
        ErrorCode.concurrent_transactions,
        "AddPartitionsToTxn",
        "AddOffsetsToTxn",
        "EndTxn",
        times=3,
    ),
    "a batch is refused": refusing(ErrorCode.message_too_large),
    "a batch is refused as damaged": refusing(ErrorCode.corrupt_message),
    "the sequence is broken": refusing(ErrorCode.out_of_order_sequence_number),
    "replicas are missing": refusing(ErrorCode.not_enough_replicas),
    "the producer id is forgotten": failing(
        ErrorCode.invalid_producer_id_mapping, "AddPartitionsToTxn", times=1
    ),
    "the producer id is forgotten at the end": failing(
        ErrorCode.invalid_producer_id_mapping, "EndTxn", times=1
    ),
    "a request times out": failing(ErrorCode.request_timed_out, "TxnOffsetCommit", "Produce"),
    "a commit's outcome is unknown": losing("EndTxn"),
    "a delivery's outcome is unknown": losing("Produce", "AddOffsetsToTxn"),
    "the broker throttles": slow("Produce", *TRANSACTION, "Fetch"),
}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The warnings of the engine."""
    caplog.set_level(logging.INFO)
    yield lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("streamapp.engine") and record.levelno >= logging.WARNING
    ]
    assert not [record for record in caplog.records if record.exc_info], "a traceback"


async def exactly(kafka: BrokerUnderTest, app: App, count: int) -> None:
    """Wait until as many outputs are there as words were sent; each count is there once."""
    await exactly_these(kafka, app, [b"a %d" % number for number in range(1, count + 1)])


async def exactly_these(
    kafka: BrokerUnderTest, app: App, outputs: Sequence[bytes], within: float = PATIENCE
) -> None:
    """Wait until these outputs are there, in this order, and never more of them."""

    async def complete() -> bool:
        assert app.failure is None, app.failure
        found = [record.value for record in await read_all(kafka.bootstrap, kafka.topic("out"))]
        assert len(found) <= len(outputs), f"{len(found)} outputs, {len(outputs)} are due"
        return found == list(outputs)

    await eventually(complete, within=within)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_worker_goes_on_without_help(
    embedded: Broker, tmp_path: Path, trouble: str, said: Callable[[], list[str]]
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    app = counting(kafka, tmp_path)
    async with running(app) as engine:
        await opened(engine)
        await publish(kafka, "in", [b"a"] * 20)
        await exactly(kafka, app, 20)
        # With a batch at hand, so that what is published is not what the trouble befalls.
        with inject("checkpoint.processed", lambda: TROUBLES[trouble](embedded.faults)):
            await publish(kafka, "in", [b"a"] * 20)
            await exactly(kafka, app, 40)
        await eventually(lambda: not embedded.faults.active)
    assert not embedded.faults.take_refusal(kafka.topic("out"), 0), "no batch was refused"
    assert len(said()) <= MOST_LINES, said()


@pytest.mark.parametrize(
    ("error", "apis"),
    [
        (ErrorCode.not_coordinator, ("InitProducerId", "OffsetFetch", "FindCoordinator")),
        (ErrorCode.coordinator_not_available, ("InitProducerId", "OffsetFetch", "FindCoordinator")),
        (ErrorCode.coordinator_load_in_progress, ("InitProducerId", "OffsetFetch")),
        (ErrorCode.concurrent_transactions, ("InitProducerId",)),
        (ErrorCode.not_leader_or_follower, ("ListOffsets", "Fetch")),
        (ErrorCode.leader_not_available, ("ListOffsets",)),
        (ErrorCode.request_timed_out, ("ListOffsets", "JoinGroup", "SyncGroup")),
        (ErrorCode.unknown_server_error, ("OffsetFetch", "Heartbeat")),
        (ErrorCode.unknown_topic_or_partition, ("ListOffsets", "Fetch")),
    ],
    ids=lambda value: value.name if isinstance(value, ErrorCode) else "",
)
@pytest.mark.parametrize("drops", [False, True], ids=["answered", "dropped"])
async def test_a_worker_opens_through_what_passes(
    embedded: Broker,
    tmp_path: Path,
    error: ErrorCode,
    apis: Sequence[str],
    drops: bool,
    said: Callable[[], list[str]],
) -> None:
    """With a store to bring up to date: marker, changelog, offsets, fence and group are all asked for."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"] * 20)
    await run_once(counting(kafka, tmp_path / "1"))
    await publish(kafka, "in", [b"a"] * 20)
    app = counting(kafka, tmp_path / "2")
    for api in apis:
        embedded.faults.fail(api, error, times=2)
        if drops:
            embedded.faults.drop(api, times=2)
    async with running(app):
        await exactly(kafka, app, 40)
        assert not embedded.faults.active
    assert len(said()) <= MOST_LINES, said()


@pytest.mark.parametrize("times", [1, 2])
async def test_tasks_are_assigned_though_the_leader_gets_no_metadata(
    embedded: Broker, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka has none of the topics from its first request, and after a lost one asks much later."""
    monkeypatch.setitem(COMMON, "metadata_max_age_ms", 600_000)
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    app = counting(kafka, tmp_path, worker_name="ada")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"] * 20)
    member = f"{app.topologies()[0].group}-ada"
    subscribe = AIOKafkaConsumer.subscribe

    def lost(consumer: AIOKafkaConsumer, *arguments: Any, **options: Any) -> None:
        embedded.faults.drop("Metadata", times=times, client=member)
        subscribe(consumer, *arguments, **options)

    monkeypatch.setattr(AIOKafkaConsumer, "subscribe", lost)
    async with running(app):
        await exactly(kafka, app, 20)
        assert not embedded.faults.active


async def test_a_worker_joins_though_the_first_word_with_a_broker_is_lost(
    embedded: Broker, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    app = counting(kafka, tmp_path, worker_name="ada")
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    embedded.faults.drop("Metadata", times=3, client=f"{app.topologies()[0].group}-ada")
    async with running(app):
        await exactly(kafka, app, 1)
    assert "Unable to bootstrap" in said()[0]


async def test_a_worker_that_is_stopped_while_it_joins_is_no_member_later(
    embedded: Broker, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    app = counting(kafka, tmp_path, worker_name="ada")
    await kafka.create_topic("in", partitions=1)
    embedded.faults.drop("Metadata", times=1_000, client=f"{app.topologies()[0].group}-ada")
    engine = Engine(app)
    starting = asyncio.ensure_future(engine.start())
    await eventually(said)
    await engine.stop()
    embedded.faults.clear()
    await starting
    routines = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
    assert not {name for name in routines if name.startswith(("GroupCoordinator.", "Group."))}


@pytest.mark.parametrize("reset", ["earliest", "latest"])
@pytest.mark.parametrize(
    "error",
    [
        ErrorCode.not_coordinator,
        ErrorCode.coordinator_not_available,
        ErrorCode.coordinator_load_in_progress,
    ],
    ids=lambda error: error.name,
)
async def test_offsets_that_a_coordinator_does_not_tell_are_not_taken_for_none(
    embedded: Broker, tmp_path: Path, error: ErrorCode, reset: str
) -> None:
    """Kafka names no partition in that answer, and aiokafka looks at partitions only."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    topic = await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"%d" % number for number in range(20)])
    app = make_app(kafka, tmp_path, engine={"offset_reset": reset})
    out = app.topic(kafka.topic("out"), value_type=str, partitions=1)

    @app.batch_agent(app.topic(topic, value_type=str, partitions=1), within=0, sink=out)
    async def copy(batches: Batches) -> Any:
        async for batch in batches:
            for word in batch:
                yield word

    [topology] = app.topologies()
    partition = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=topology.group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([partition])
        await consumer.commit({partition: 10})
    embedded.faults.fail("OffsetFetch", error, times=3)
    async with running(app):
        await eventually(lambda: not embedded.faults.active)
        await publish(kafka, "in", [b"20"])
        await exactly_these(kafka, app, [b"%d" % number for number in range(10, 21)])
    embedded.faults.fail("OffsetFetch", error, times=3)
    async with LedgerReader(app.kafka_options()) as reader:
        assert (await reader.standing(topology)).committed == {partition: 21}
    assert not embedded.faults.active


async def test_a_leader_whose_disk_has_failed_is_not_asked_without_a_pause(
    embedded: Broker, tmp_path: Path
) -> None:
    """Nor only it: where the partition is by now is asked for."""
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    app = counting(kafka, tmp_path, worker_name="ada")
    async with running(app) as engine:
        await opened(engine)
        consumer: Any = engine.groups[0].consumer
        asked: list[float] = []
        ask = consumer._client.force_metadata_update

        def counted() -> Any:
            asked.append(asyncio.get_running_loop().time())
            return ask()

        consumer._client.force_metadata_update = counted
        member = f"{app.topologies()[0].group}-ada"
        embedded.faults.fail("Fetch", ErrorCode.kafka_storage_error, times=5, client=member)
        await publish(kafka, "in", [b"a"] * 20)
        await exactly(kafka, app, 20)
    assert len(asked) >= 5
    assert min(after - before for before, after in pairwise(asked[:5])) > 0.05


async def test_a_ledger_of_which_nothing_comes_is_not_waited_for_without_end(
    embedded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-")
    app = counting(kafka, tmp_path)
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    await run_once(app)
    monkeypatch.setattr(reading, "_READ_WITHIN", 0.5)
    embedded.faults.fail("Fetch", ErrorCode.kafka_storage_error, times=100_000)
    async with LedgerReader(app.kafka_options()) as reader:
        with pytest.raises(LedgerError, match=r"nothing was read of .*ledger\[0\] at offset 0 for"):
            async for _ in reader.entries(
                {TopicPartition(f"{app.conf.id}-count-ledger", 0): (0, 1)}
            ):
                pytest.fail("it cannot be read")


async def test_a_client_that_ends_without_a_word_ends_the_worker(
    embedded: Broker, tmp_path: Path
) -> None:
    app = counting(BrokerUnderTest(embedded.bootstrap, "embedded", "trouble-"), tmp_path)
    async with running(app) as engine:
        await opened(engine)
        consumer: Any = engine.groups[0].consumer
        consumer._coordinator._coordination_task.cancel()
        await eventually(lambda: app.failure is not None)
        assert "the Kafka client has ended without a word" in str(app.failure)


async def test_the_worker_waits_for_a_broker_that_is_gone_and_says_so_once(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    broker = Broker(port=0, data=tmp_path / "broker")
    await broker.start()
    kafka = BrokerUnderTest(broker.bootstrap, "embedded", "gone-")
    app = counting(kafka, tmp_path / "state", engine={"commit_deadline": 1.0})
    async with running(app) as engine:
        await opened(engine)
        await publish(kafka, "in", [b"a"] * 20)
        await exactly(kafka, app, 20)
        await publish(kafka, "in", [b"a"])
        await broker.stop()
        await asyncio.sleep(5.0)  # for so long it is away
        broker = Broker(port=broker.port, data=tmp_path / "broker")
        await broker.start()
        await publish(kafka, "in", [b"a"])
        await exactly(kafka, app, 22)
    await broker.stop()
    assert len(said()) <= MOST_LINES, said()


async def test_a_transaction_that_times_out_is_tried_with_smaller_batches(
    embedded: Broker, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "timeout-")
    app = counting(kafka, tmp_path, engine={"transaction_timeout": 1.0})
    async with running(app) as engine:
        runner = await opened(engine)
        embedded.faults.delay("AddOffsetsToTxn", 2.0, times=2)
        await publish(kafka, "in", [b"a"] * 20)
        await eventually(lambda: runner._pace.max_records < 10)
        await exactly(kafka, app, 20)
        await publish(kafka, "in", [b"a"] * 20)
        await exactly(kafka, app, 40)
        assert runner._pace.max_records == 10
    [line] = [line for line in said() if "transaction_timeout is 1 s" in line]
    assert "lower max_records" in line


@pytest.mark.parametrize(
    ("api", "error", "what"),
    [
        ("AddPartitionsToTxn", ErrorCode.topic_authorization_failed, "TopicAuthorization"),
        ("AddOffsetsToTxn", ErrorCode.group_authorization_failed, "GroupAuthorization"),
        ("InitProducerId", ErrorCode.transactional_id_authorization_failed, "TransactionalId"),
        ("JoinGroup", ErrorCode.group_authorization_failed, "GroupAuthorization"),
        ("CreateTopics", ErrorCode.topic_authorization_failed, "TopicAuthorization"),
    ],
)
async def test_what_is_refused_for_good_ends_the_worker_with_what_to_do(
    embedded: Broker, tmp_path: Path, api: str, error: ErrorCode, what: str
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "refused-")
    app = counting(kafka, tmp_path)
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a"])
    embedded.faults.fail(api, error, times=100)
    try:
        async with running(app):
            failure: Any = await eventually(lambda: app.failure, within=20)
    except StreamappError as refused:
        failure = refused
    assert isinstance(failure, StreamappError)
    assert what in str(failure)
    assert "kafka-acls.sh" in str(failure)


async def test_a_named_worker_does_not_wait_for_the_group_when_it_stops(
    embedded: Broker, tmp_path: Path
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "meeting-")
    app = counting(kafka, tmp_path, worker_name="ada")
    async with running(app) as engine:
        await opened(engine)
        coordinator: Any = engine.groups[0].consumer._coordinator
        embedded.faults.delay("JoinGroup", 60.0)
        coordinator.request_rejoin()
        await eventually(lambda: not embedded.faults.active)
        async with asyncio.timeout(25):
            await engine.stop()


@pytest.mark.broker
@pytest.mark.kafka
async def test_leaders_and_coordinators_move_when_brokers_die(
    apache_installed: None, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    with KafkaCluster(tmp_path / "kafka", heap="256m") as cluster:
        first, *others = cluster.servers
        kafka = BrokerUnderTest(first.bootstrap, "apache", "moving-")
        app = counting(kafka, tmp_path / "state", engine={"replication": -1})
        async with running(app) as engine:
            await opened(engine)
            for round_, server in enumerate(others, 1):
                await asyncio.to_thread(server.kill)
                await publish(kafka, "in", [b"a"] * 20)
                await exactly(kafka, app, 20 * round_)
                await asyncio.to_thread(server.start)
            await publish(kafka, "in", [b"a"] * 20)
            await exactly(kafka, app, 60)
    assert len(said()) <= 3 * MOST_LINES, said()


@pytest.mark.broker
@pytest.mark.kafka
async def test_the_only_broker_restarts(
    apache_installed: None, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    with KafkaServer(tmp_path / "kafka", heap="256m") as server:
        kafka = BrokerUnderTest(server.bootstrap, "apache", "restart-")
        app = counting(kafka, tmp_path / "state", engine={"commit_deadline": 5.0})
        async with running(app) as engine:
            await opened(engine)
            await publish(kafka, "in", [b"a"] * 20)
            await exactly(kafka, app, 20)
            await publish(kafka, "in", [b"a"] * 20)
            await asyncio.to_thread(server.restart)
            await exactly(kafka, app, 40)
    assert len(said()) <= MOST_LINES, said()


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.kafka
async def test_a_broker_throttles_by_its_quotas(
    apache_installed: None,
    tmp_path: Path,
    said: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers at once, says for how long, and reads nothing more for so long (KIP-219)."""
    throttled: list[int] = []
    send = AIOKafkaClient.send

    async def seen(client: AIOKafkaClient, *arguments: Any, **options: Any) -> Any:
        answer = await send(client, *arguments, **options)
        throttled.append(getattr(answer, "throttle_time_ms", 0) or 0)
        return answer

    words = [b"%02d" % number + b"x" * 1_000 for number in range(30)]
    with KafkaServer(tmp_path / "kafka", heap="256m") as server:
        kafka = BrokerUnderTest(server.bootstrap, "apache", "quota-")
        await kafka.create_topic("in", partitions=1)
        await publish(kafka, "in", words)
        quotas = "producer_byte_rate=3000,consumer_byte_rate=30000"
        await asyncio.to_thread(
            server.configure,
            *("--alter", "--entity-type", "clients", "--entity-default", "--add-config", quotas),
        )
        monkeypatch.setattr(AIOKafkaClient, "send", seen)
        app = counting(kafka, tmp_path / "state")
        async with running(app):
            await exactly_these(kafka, app, [word + b" 1" for word in words], within=180)
    assert max(throttled) > 0, "the quotas were no limit"
    assert len(said()) <= MOST_LINES, said()


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.kafka
async def test_no_broker_for_a_minute(
    apache_installed: None, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    """With a batch at hand; sessions, transactions and all deadlines of requests end meanwhile."""
    with KafkaServer(tmp_path / "kafka", heap="256m") as server:
        kafka = BrokerUnderTest(server.bootstrap, "apache", "minute-")
        app = counting(kafka, tmp_path / "state", engine={"commit_deadline": 5.0})
        async with running(app) as engine:
            await opened(engine)
            await publish(kafka, "in", [b"a"] * 20)
            await exactly(kafka, app, 20)
            published = threading.Event()

            def publishing() -> None:
                asyncio.run(publish(kafka, "in", [b"a"] * 20))
                published.set()

            def kill() -> None:
                assert published.wait(60)
                server.kill()

            with inject("checkpoint.before-commit", kill):
                await asyncio.to_thread(publishing)
                await eventually(lambda: server.pid is None)
            await asyncio.sleep(60.0)  # for so long it is away
            assert app.failure is None
            await asyncio.to_thread(server.start)
            await exactly(kafka, app, 40)
            await publish(kafka, "in", [b"a"])
            await exactly(kafka, app, 41)
    # Once a minute, what is tried tells that it still is.
    assert len(said()) <= 2 * MOST_LINES, said()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_under_the_store_is_waited_for(
    embedded: Broker, small_disk: Path, said: Callable[[], list[str]]
) -> None:
    kafka = BrokerUnderTest(embedded.bootstrap, "embedded", "full-")
    app = counting(kafka, small_disk, engine={"store_memory": 8 << 20})
    await kafka.create_topic("in", partitions=1)
    # More than the log of the store has room for already.
    words = [b"%02d" % number + bytes([97 + number % 26]) * 90_000 for number in range(40)]
    async with running(app) as engine:
        await opened(engine)
        await publish(kafka, "in", words[:2])
        await eventually(lambda: engine.groups[0].runners[0].checkpoints > 0)
        filler = small_disk / "filler"
        fill(filler)
        await publish(kafka, "in", words[2:])
        await eventually(lambda: any("the disk is full" in line for line in said()))
        filler.unlink()
        await exactly_these(kafka, app, [word + b" 1" for word in words])
        runner = await opened(engine)
        assert [runner.task.tables["counts"][word.decode()] for word in words] == [1] * 40
    assert len(said()) <= MOST_LINES, said()


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
