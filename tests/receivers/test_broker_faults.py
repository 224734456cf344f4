"""What a real cluster does once a year, on demand: still every record once, and in order."""

from pathlib import Path

import msgspec
import pytest
from kio.schema.errors import ErrorCode

from streamapp.broker import Broker
from streamapp.faults import inject
from streamapp.receivers import session, topics
from streamapp.receivers.errors import BrokerUnavailable, PublishError
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.receivers.topics import TopicSpec, ensure_topics
from tests.receivers.clock import ManualClock
from tests.receivers.topics import values

TOPIC = "lines"
TRANSACTIONS = 6


class Place(msgspec.Struct, frozen=True):
    number: int


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "DELIVERY_TIMEOUT", 1.0)
    monkeypatch.setattr(session, "COMMIT_TIMEOUT", 0.5)
    monkeypatch.setattr(session, "ABORT_TIMEOUT", 0.2)


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


def publisher(bootstrap: str) -> PositionedPublisher[Place]:
    return PositionedPublisher(bootstrap, TOPIC, "name", Place, partitions=2, clock=ManualClock())


@pytest.mark.parametrize("api", ["CreateTopics", "DescribeConfigs"])
@pytest.mark.parametrize("answered", [False, True])
async def test_a_broker_that_does_not_prepare_topics_for_now_is_waited_for(
    embedded: Broker, api: str, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no fault of the topic's says so: it would end a worker."""

    def trouble(times: int) -> None:
        if not answered:
            embedded.faults.drop(api, times=times)
        elif api == "CreateTopics":
            embedded.faults.fail(api, ErrorCode.not_controller, times=times)
        else:
            embedded.faults.fail(api, ErrorCode.unknown_topic_or_partition, times=times)

    trouble(2)
    assert TOPIC in await ensure_topics(embedded.bootstrap, TopicSpec(TOPIC))
    assert not embedded.faults.active
    monkeypatch.setattr(topics, "PATIENCE", 0.5)
    trouble(1_000)
    with pytest.raises(BrokerUnavailable):
        await ensure_topics(embedded.bootstrap, TopicSpec("other"))


FAULTS = {
    "connection lost before a commit": lambda broker: broker.faults.drop("EndTxn"),
    "connection lost after a commit": lambda broker: broker.faults.drop("EndTxn", when="after"),
    "commits lost for a while": lambda broker: broker.faults.drop("EndTxn", times=3, when="after"),
    "commit that does not answer": lambda broker: broker.faults.delay("EndTxn", 2.0),
    "connection lost before records": lambda broker: broker.faults.drop("Produce"),
    "connection lost after records": lambda broker: broker.faults.drop("Produce", when="after"),
    "connection lost before fencing": lambda broker: (
        broker.faults.drop("EndTxn"),
        broker.faults.drop("InitProducerId"),
    ),
    "coordinator that moves": lambda broker: broker.faults.fail(
        "EndTxn", ErrorCode.not_coordinator, times=2
    ),
    "coordinator that loads": lambda broker: broker.faults.fail(
        "AddPartitionsToTxn", ErrorCode.coordinator_load_in_progress, times=2
    ),
    "transaction before not finished": lambda broker: broker.faults.fail(
        "AddPartitionsToTxn", ErrorCode.concurrent_transactions, times=5
    ),
    "fenced by a timeout": lambda broker: broker.faults.fail(
        "EndTxn", ErrorCode.invalid_producer_epoch
    ),
    "leader that moves": lambda broker: broker.faults.refuse_batch(
        TOPIC, 0, ErrorCode.not_leader_or_follower
    ),
    "batch that is refused": lambda broker: broker.faults.refuse_batch(
        TOPIC, 0, ErrorCode.unknown_server_error
    ),
    "batch out of order": lambda broker: broker.faults.refuse_batch(
        TOPIC, 1, ErrorCode.out_of_order_sequence_number
    ),
    "position that is refused": lambda broker: broker.faults.refuse_batch(
        f"{TOPIC}-positions", 0, ErrorCode.unknown_server_error
    ),
    "reading that fails": lambda broker: (
        broker.faults.drop("EndTxn", when="after"),
        broker.faults.drop("Fetch", times=2),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("nth", [0, 2])
async def test_every_record_is_there_once_and_in_order(embedded: Broker, fault: str, nth: int):
    if nth == 0:
        FAULTS[fault](embedded)
    async with publisher(embedded.bootstrap) as first:
        for number in range(TRANSACTIONS):
            if number == nth > 0:
                FAULTS[fault](embedded)
            await first.publish(numbered(10 * number, 10 * number + 10), Place(10 * number + 10))
        assert first.position == Place(10 * TRANSACTIONS)
    expected = numbered(0, 10 * TRANSACTIONS)
    assert await values(embedded.bootstrap, TOPIC) == {0: expected[0::2], 1: expected[1::2]}


async def test_a_batch_that_will_never_be_taken_is_an_error(embedded: Broker):
    async with publisher(embedded.bootstrap) as first:
        await first.publish(numbered(0, 2), Place(2))
        embedded.faults.refuse_batch(TOPIC, 0, ErrorCode.message_too_large)
        with pytest.raises(PublishError, match="MessageSizeTooLarge"):
            await first.publish(numbered(2, 4), Place(4))
        await first.publish(numbered(2, 4), Place(4))
    assert await values(embedded.bootstrap, TOPIC) == {0: [b"0", b"2"], 1: [b"1", b"3"]}


class RestartingClock(ManualClock):
    """Somebody else restarts the broker while the publisher waits to try again."""

    def __init__(self, broker: Broker, data: Path) -> None:
        super().__init__()
        self.broker = broker
        self._data = data
        self._port = broker.port
        self._down = False

    def kill_broker(self) -> None:
        self.broker.kill()
        self._down = True

    async def sleep(self, seconds: float) -> None:
        if self._down:
            self.broker = Broker(port=self._port, data=self._data)
            await self.broker.start()
            self._down = False
        await super().sleep(seconds)


@pytest.mark.broker
@pytest.mark.parametrize("point", ["fenced", "before-delivery", "before-commit", "after-commit"])
async def test_a_broker_may_be_killed_and_started_again(tmp_path: Path, point: str):
    broker = Broker(data=tmp_path)
    await broker.start()
    clock = RestartingClock(broker, tmp_path)
    first = PositionedPublisher(broker.bootstrap, TOPIC, "name", Place, partitions=2, clock=clock)
    nth = 1 if point == "fenced" else 4
    with inject(f"receiver.{point}", clock.kill_broker, nth):
        async with first:
            for number in range(TRANSACTIONS):
                await first.publish(
                    numbered(10 * number, 10 * number + 10), Place(10 * number + 10)
                )
        assert clock.broker is not broker
        expected = numbered(0, 10 * TRANSACTIONS)
        assert await values(clock.broker.bootstrap, TOPIC) == {0: expected[0::2], 1: expected[1::2]}
    await clock.broker.stop()
