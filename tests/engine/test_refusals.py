"""What a broker refuses for good, and what passes."""

from __future__ import annotations

import pytest
from aiokafka import errors

from streamapp.engine.refusals import Refusals, causes, remedy
from streamapp.errors import TaskClosed


@pytest.mark.parametrize(
    "kind",
    [
        errors.NotCoordinatorError,
        errors.CoordinatorNotAvailableError,
        errors.CoordinatorLoadInProgressError,
        errors.NotLeaderForPartitionError,
        errors.LeaderNotAvailableError,
        errors.ConcurrentTransactions,
        errors.InvalidProducerIdMapping,
        errors.InvalidTxnState,
        errors.ProducerFenced,
        errors.OutOfOrderSequenceNumber,
        errors.UnknownTopicOrPartitionError,
        errors.UnknownMemberIdError,
        errors.RequestTimedOutError,
        errors.NotEnoughReplicasError,
        errors.KafkaStorageError,
        errors.CorruptRecordException,
        errors.UnknownError,
        errors.KafkaConnectionError,
    ],
)
def test_what_a_moving_cluster_answers_passes(kind: type[errors.KafkaError]) -> None:
    assert remedy(kind()) is None


def test_a_refusal_says_what_to_do() -> None:
    assert "kafka-acls.sh" in (remedy(errors.TransactionalIdAuthorizationFailed()) or "")
    assert "max.message.bytes" in (remedy(errors.MessageSizeTooLargeError()) or "")


def test_an_error_of_the_engine_counts_as_its_cause() -> None:
    closed = TaskClosed("it was not committed")
    closed.__cause__ = errors.TopicAuthorizationFailedError("in")
    assert remedy(closed) is not None


def test_an_error_among_its_own_causes_is_looked_at_once() -> None:
    closed, cause = TaskClosed("it was not committed"), OSError("reset")
    closed.__cause__, cause.__cause__ = cause, closed
    assert remedy(closed) is None
    assert list(causes(closed)) == [closed, cause]


def test_a_refusal_counts_when_it_is_repeated() -> None:
    refusals = Refusals()
    refused, passes = errors.GroupAuthorizationFailedError("g"), errors.NotCoordinatorError()
    assert [refusals.final(refused) for _ in range(2)] == [None, None]
    assert refusals.final(passes) is None
    assert [refusals.final(refused) for _ in range(2)] == [None, None]
    refusals.passed()
    assert [refusals.final(refused) for _ in range(2)] == [None, None]
    assert refusals.final(refused) is not None
