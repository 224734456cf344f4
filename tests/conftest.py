"""Fixtures of the broker-facing tests: written once, run on the embedded broker and on Kafka.

`kafka` is a broker shared by the session, under a prefix of names that is the test's own.
`embedded` is an embedded broker of the test's own, in its event loop, that injects faults.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.brokers import BrokerUnderTest, apache_kafka
from tests.embedded import EmbeddedProcess
from tests.kafka import KafkaUnavailable, fetch_jars
from tests.kafka.shared import session_directory

if TYPE_CHECKING:
    from streamapp.broker import Broker

REQUIRE_KAFKA = "STREAMAPP_REQUIRE_KAFKA"
UNAVAILABLE = "Apache Kafka cannot run here"


SESSION = pytest.StashKey[Path]()
"""The folder of the test run: all of its processes find Apache Kafka by it."""


def pytest_configure(config: pytest.Config) -> None:
    """Own the folder of the test run, or use that of the process that leads it (pytest-xdist)."""
    if led := getattr(config, "workerinput", None):
        config.stash[SESSION] = Path(led["session"])
        return
    running = contextlib.ExitStack()
    config.stash[SESSION] = running.enter_context(session_directory())
    config.add_cleanup(running.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process that will run a part of the tests where the folder is."""
    node.workerinput["session"] = str(node.config.stash[SESSION])


@pytest.fixture(autouse=True, scope="module")
def collected() -> None:
    """Let what earlier tests have left tell now what it has to tell, and not in the middle of another.

    CPython 3.11 fails to parse while a destructor runs (gh-106905), and hypothesis parses.
    """
    gc.collect()


@pytest.fixture(scope="session")
def apache_bootstrap(pytestconfig: pytest.Config) -> str:
    """The address of an Apache Kafka: started on first use, one for the whole test run.

    Where Kafka cannot run, tests are skipped, or fail when STREAMAPP_REQUIRE_KAFKA is 1.
    """
    try:
        return apache_kafka(pytestconfig.stash[SESSION])
    except KafkaUnavailable as error:
        reason = str(error)
    do_without_kafka(reason)


@pytest.fixture(scope="session")
def apache_installed() -> None:
    """For tests that start servers of their own: skipped, or failing, where there is no Kafka."""
    try:
        fetch_jars()
        return
    except KafkaUnavailable as error:
        reason = str(error)
    do_without_kafka(reason)


def do_without_kafka(reason: str) -> NoReturn:
    """Skip the test at hand for want of Kafka, or fail it where Kafka is required."""
    message = f"{UNAVAILABLE}: {reason}"
    if os.environ.get(REQUIRE_KAFKA) == "1":
        pytest.fail(f"{message} ({REQUIRE_KAFKA}=1)", pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def embedded_bootstrap() -> Iterator[str]:
    """The address of an embedded broker in a process of its own."""
    with EmbeddedProcess() as broker:
        yield broker.bootstrap


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.broker),
        pytest.param("apache", marks=[pytest.mark.broker, pytest.mark.kafka]),
    ]
)
async def kafka(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[BrokerUnderTest]:
    """A broker that the session shares: the test runs on the embedded one and on Apache Kafka."""
    bootstrap = request.getfixturevalue(f"{request.param}_bootstrap")
    broker = BrokerUnderTest(bootstrap, request.param, prefix)
    yield broker
    await broker.delete_topics()


@pytest.fixture
async def embedded() -> AsyncIterator[Broker]:
    """An embedded broker of the test's own, in the test's event loop; its `faults` are free."""
    from streamapp.broker import Broker

    async with Broker(port=0) as broker:
        yield broker


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """What the names of this test begin with: readable in a broker's log, and unique."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_").lower())
    return f"{name[:40].strip('-')}-{uuid.uuid4().hex[:8]}-"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a fault-injecting broker need no Kafka, but talk to a broker all the same."""
    for item in items:
        if "embedded" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.broker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all tests skipped for want of Kafka one place, so that the summary has one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and UNAVAILABLE in report.longrepr[2]:
        report.longrepr = (__file__, 0, report.longrepr[2])
    return report
