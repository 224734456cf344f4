"""Two receivers of one name: one runs, the other waits, and nothing is published twice."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import chain
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from streamapp.broker import Broker
from streamapp.receivers.errors import OwnershipLost
from streamapp.receivers.ownership import Ownership, _Word, choose
from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.topics import values


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


def ownership(kafka: BrokerUnderTest, topic: str, name: str = "one") -> Ownership:
    return Ownership(kafka.bootstrap, topic, name, session_timeout=2.0)


async def test_the_second_waits_and_says_for_whom(
    kafka: BrokerUnderTest, topic: str, caplog: pytest.LogCaptureFixture
):
    async with ownership(kafka, topic) as owner:
        await owner.acquired()
        async with ownership(kafka, topic) as other:
            await eventually(lambda: "runs elsewhere" in caplog.text)
            assert f"process {os.getpid()}" in caplog.text
            assert owner.owned
            assert not other.owned


async def test_the_waiting_one_is_next_when_the_owner_leaves(
    kafka: BrokerUnderTest, topic: str, caplog: pytest.LogCaptureFixture
):
    first = ownership(kafka, topic)
    async with AsyncExitStack() as stack:
        async with first:
            await first.acquired()
            second = await stack.enter_async_context(ownership(kafka, topic))
            waiting = asyncio.ensure_future(second.acquired())
            await eventually(lambda: "runs elsewhere" in caplog.text)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 10)
        assert second.owned
        assert not first.owned


async def test_an_owner_that_the_group_refuses_does_not_go_on(embedded: Broker) -> None:
    """It would be a member no longer: the next one runs as well, and neither of them knows."""
    async with ownership(BrokerUnderTest(embedded.bootstrap, "embedded", ""), "lines") as owner:
        await owner.acquired()
        ended = asyncio.Event()

        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        embedded.faults.fail("Heartbeat", ErrorCode.unknown_server_error)
        with pytest.raises(KafkaError):
            await asyncio.wait_for(owner.hold(run), 20)
        assert ended.is_set()


async def test_newcomers_never_take_it_from_the_owner(kafka: BrokerUnderTest, topic: str):
    async with ownership(kafka, topic) as owner, AsyncExitStack() as stack:
        await owner.acquired()
        held = asyncio.ensure_future(owner.hold(asyncio.Event().wait))
        others = [await stack.enter_async_context(ownership(kafka, topic)) for _ in range(4)]
        await eventually(lambda: all(other._assignor.owner.term for other in others))
        assert not held.done()
        assert not any(other.owned for other in others)
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


async def test_names_do_not_exclude_each_other(kafka: BrokerUnderTest, topic: str):
    async with ownership(kafka, topic, "a") as a, ownership(kafka, topic, "b") as b:
        await asyncio.gather(a.acquired(), b.acquired())


async def test_what_runs_is_cancelled_when_the_group_names_another(
    kafka: BrokerUnderTest, topic: str
):
    async with ownership(kafka, topic) as owner:
        await owner.acquired()
        cancelled = asyncio.Event()

        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        held = asyncio.ensure_future(owner.hold(run))
        await asyncio.sleep(0)
        await owner.on_partitions_assigned(set())
        with pytest.raises(OwnershipLost):
            await held
        assert cancelled.is_set()


WORDS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.builds(_Word, term=st.integers(0, 3), seen=st.integers(0, 3)),
    min_size=1,
)


@given(WORDS)
def test_the_last_owner_is_kept_and_terms_never_run_back(words: dict[str, _Word]):
    owner, word = choose(words)
    terms = [other.term for other in words.values()]
    assert words[owner].term == max(terms)
    if max(terms):
        assert word == words[owner]
    else:
        assert word.term > max(other.seen for other in words.values())


PUBLISH = """
import asyncio, sys
from streamapp.receivers.file import FileReceiver
from streamapp.receivers.ownership import Ownership
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
path, topic, bootstrap = sys.argv[1:]
receiver = FileReceiver(path, topic, bootstrap=bootstrap, name="one", follow=True, partitions=1,
                        rate=200, batch_lines=20)
asyncio.run(receiver.supervised(ownership=Ownership(bootstrap, topic, "one")))
"""


@contextmanager
def process(
    kafka: BrokerUnderTest, topic: str, log: Path, errors: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PUBLISH, str(log), topic, kafka.bootstrap]
    with errors.open("wb") as file:
        started = subprocess.Popen(command, stderr=file)
        try:
            yield started
        finally:
            started.kill()
            started.wait()


async def test_a_killed_owner_is_replaced_within_ten_seconds_and_nothing_is_repeated(
    kafka: BrokerUnderTest, topic: str, tmp_path: Path
):
    log, owner_says, other_says = (tmp_path / name for name in ("x.log", "owner", "other"))
    lines = [b"%d" % number for number in range(6_000)]
    log.write_bytes(b"".join(line + b"\n" for line in lines))

    async def published() -> int:
        return len([*chain(*(await values(kafka.bootstrap, topic)).values())])

    with process(kafka, topic, log, owner_says) as owner:
        await eventually(lambda: b"this process runs" in owner_says.read_bytes())
        with process(kafka, topic, log, other_says):
            await eventually(lambda: b"runs elsewhere" in other_says.read_bytes())
            await eventually(published)
            owner.kill()
            killed = time.monotonic()
            before = await published()
            await eventually(lambda: b"this process runs" in other_says.read_bytes())

            async def goes_on() -> bool:
                return await published() > before

            await eventually(goes_on)
            assert time.monotonic() - killed < 10
    found = [*chain(*(await values(kafka.bootstrap, topic)).values())]
    assert found == lines[: len(found)]
