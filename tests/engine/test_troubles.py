"""What is said, and how long is waited, when something fails again and again."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import NotCoordinatorError, TopicAuthorizationFailedError

from streamapp.engine.troubles import Troubles
from streamapp.errors import StreamappError


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def troubles(clock: Clock) -> Troubles:
    return Troubles("job/0", "it opens anew", "job/0 cannot be opened", (0.1, 5.0), clock)


def test_the_pause_grows_up_to_the_longest(troubles: Troubles) -> None:
    pauses = [troubles.failed(NotCoordinatorError()) for _ in range(8)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    troubles.passed()
    assert troubles.failed(NotCoordinatorError()) == pytest.approx(0.1)


def test_the_same_is_said_once_a_minute_and_the_end_of_it_once(
    troubles: Troubles, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for second in range(90):
        clock.now = float(second)
        troubles.failed(NotCoordinatorError())
    assert len(caplog.records) == 2
    troubles.failed(OSError("no route to host"))
    assert "no route to host" in caplog.records[-1].getMessage()
    troubles.passed()
    assert caplog.records[-1].getMessage() == "job/0 goes on after 91 failures in 89.0 s"
    assert len(caplog.records) == 4


def test_a_refusal_ends_it(troubles: Troubles) -> None:
    troubles.failed(TopicAuthorizationFailedError("in"))
    troubles.failed(TopicAuthorizationFailedError("in"))
    with pytest.raises(StreamappError, match=r"job/0 cannot be opened, TopicAuth.*kafka-acls\.sh"):
        troubles.failed(TopicAuthorizationFailedError("in"))
