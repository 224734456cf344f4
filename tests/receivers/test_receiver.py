"""A receiver: lives from its position on, under supervision, and tells how it is doing."""

from collections.abc import Callable
from typing import ClassVar

import msgspec
import pytest

from streamapp.receivers.errors import SourceError
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.receivers.receiver import Receiver, State, Status
from streamapp.supervision import RestartsExhausted
from tests.brokers import BrokerUnderTest
from tests.receivers.clock import ManualClock
from tests.receivers.topics import values


class Place(msgspec.Struct, frozen=True):
    number: int


class Counting(Receiver[Place, str]):
    """Publishes the numbers up to `end`, one a transaction; `fails` may raise before each."""

    reliable: ClassVar[bool] = True

    def __init__(self, kafka: BrokerUnderTest, end: int, fails: Callable[[int], None]) -> None:
        super().__init__(
            kafka.topic("numbers"),
            "counting",
            Place,
            bootstrap=kafka.bootstrap,
            partitions=1,
            clock=ManualClock(),
        )
        self.end = end
        self.fails = fails
        self.seen: list[Status] = []

    async def receive(self, publisher: PositionedPublisher[Place]) -> str:
        start = 0 if publisher.position is None else publisher.position.number
        for number in range(start, self.end):
            self.seen.append(self.status)
            self.fails(number)
            await publisher.publish([b"%d" % number], Place(number + 1))
            self.published(1, self.end - number - 1)
        return "the end"


def never(_: int) -> None:
    """Do not fail."""


def failing(*errors: tuple[int, Exception]) -> Callable[[int], None]:
    left = list(errors)

    def fails(number: int) -> None:
        if left and left[0][0] == number:
            raise left.pop(0)[1]

    return fails


async def test_it_begins_at_its_position(kafka: BrokerUnderTest):
    assert await Counting(kafka, 2, never).run() == "the end"
    again = Counting(kafka, 3, never)
    assert await again.run() == "the end"
    assert await values(kafka.bootstrap, again.topic) == {0: [b"0", b"1", b"2"]}
    assert again.status.records == 1


async def test_supervised_it_goes_on_after_a_failure_and_repeats_nothing(kafka: BrokerUnderTest):
    receiver = Counting(kafka, 3, failing((1, OSError("gone")), (2, ValueError("odd"))))
    assert await receiver.supervised() == "the end"
    assert await values(kafka.bootstrap, receiver.topic) == {0: [b"0", b"1", b"2"]}
    status = receiver.status
    assert (status.state, status.restarts, status.last_error) == (State.ENDED, 2, "ValueError: odd")
    assert (status.records, status.lag) == (3, 0)
    assert status.rate == pytest.approx(0.3)


async def test_an_error_that_tells_an_operator_what_to_do_escalates(kafka: BrokerUnderTest):
    receiver = Counting(kafka, 3, failing((1, SourceError("no such thing"))))
    with pytest.raises(SourceError):
        await receiver.supervised()
    assert receiver.status.state is State.FAILED
    assert receiver.status.last_error == "SourceError: no such thing"


async def test_what_fails_again_and_again_is_given_up(kafka: BrokerUnderTest):
    receiver = Counting(kafka, 3, failing(*[(0, OSError("gone"))] * 20))
    with pytest.raises(RestartsExhausted, match=r"receiver 'counting' .* OSError: gone"):
        await receiver.supervised()
    assert receiver.status.restarts == 10


async def test_it_tells_its_state_while_it_runs(kafka: BrokerUnderTest):
    receiver = Counting(kafka, 2, never)
    assert receiver.status == Status(
        "counting", receiver.topic, True, State.IDLE, 0, 0.0, None, 0, None
    )
    await receiver.run()
    assert [(s.state, s.records, s.lag) for s in receiver.seen] == [
        (State.RUNNING, 0, None),
        (State.RUNNING, 1, 1),
    ]
