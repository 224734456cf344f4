"""Which directive follows from which exception."""

from __future__ import annotations

import json

import pytest
from aiokafka.errors import KafkaConnectionError

from streamapp import Batches, ErrorPolicy, OnError
from streamapp.errors import BatchEnded, ConfigurationError, RecordError, StoreError, TableError
from tests.engine.tasks import an_app


class Flaky(ConnectionError):
    """An error of a client library."""


@pytest.mark.parametrize(
    ("error", "directive"),
    [
        (ConnectionResetError(), OnError.RETRY),
        (TimeoutError(), OnError.RETRY),
        (OSError("no route to host"), OnError.RETRY),
        (KafkaConnectionError(), OnError.RETRY),
        (Flaky(), OnError.RETRY),
        (FileNotFoundError(), OnError.SKIP_RECORD),
        (KeyError("module"), OnError.SKIP_RECORD),
        (json.JSONDecodeError("bad", "{", 0), OnError.SKIP_RECORD),
        (RecursionError(), OnError.SKIP_RECORD),
        (RecordError("too large"), OnError.SKIP_RECORD),
        (TableError("cannot be stored"), OnError.SKIP_RECORD),
        (ConfigurationError("no such thing"), OnError.ESCALATE),
        (BatchEnded("too late"), OnError.ESCALATE),
        (StoreError("broken"), OnError.ESCALATE),
    ],
)
def test_by_itself(error: Exception, directive: OnError) -> None:
    assert ErrorPolicy().directive(error) is directive


def test_the_most_specific_type_holds() -> None:
    policy = ErrorPolicy(
        {LookupError: OnError.STOP, KeyError: OnError.SKIP_BATCH}, default=OnError.ESCALATE
    )
    assert policy.directive(KeyError()) is OnError.SKIP_BATCH
    assert policy.directive(IndexError()) is OnError.STOP
    assert policy.directive(ValueError()) is OnError.ESCALATE
    assert policy.directive(TimeoutError()) is OnError.RETRY


def test_of_a_group_holds_what_is_in_it() -> None:
    policy = ErrorPolicy()
    transient, bad = TimeoutError(), KeyError()
    assert policy.directive(ExceptionGroup("", [bad])) is OnError.SKIP_RECORD
    assert policy.directive(ExceptionGroup("", [bad, transient])) is OnError.RETRY
    nested = ExceptionGroup("", [bad, ExceptionGroup("", [ConfigurationError("no")])])
    assert policy.directive(nested) is OnError.ESCALATE
    assert ErrorPolicy({ExceptionGroup: OnError.STOP}).directive(nested) is OnError.STOP
    everything = ErrorPolicy({Exception: OnError.SKIP_BATCH})
    assert everything.directive(ExceptionGroup("", [transient])) is OnError.RETRY


def test_what_is_built_in_can_be_changed() -> None:
    policy = ErrorPolicy({OSError: OnError.SKIP_RECORD})
    assert policy.directive(TimeoutError()) is OnError.SKIP_RECORD


@pytest.mark.parametrize("options", [{"attempts": 0}, {"then": OnError.RETRY}])
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        ErrorPolicy(**options)  # type: ignore[arg-type]


def test_an_agent_takes_a_policy_or_just_its_directives() -> None:
    app = an_app()
    policy = ErrorPolicy(attempts=2)

    async def agent(batches: Batches) -> None:
        async for _ in batches:
            pass

    assert app.batch_agent("in", name="a", errors=policy)(agent).errors is policy
    short = app.batch_agent("in", name="b", errors={ValueError: OnError.STOP})(agent)
    assert short.errors is not None
    assert short.errors.directive(ValueError()) is OnError.STOP
    assert app.batch_agent("in", name="c")(agent).errors is None
