"""`streamapp drain`: a worker hands over now, and not when its session has timed out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamapp.engine.identity import Identity
from streamapp.lifecycle.drain import drain
from streamapp.lifecycle.errors import LifecycleError
from streamapp.lifecycle.membership import members_of
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.jobs import Event
from tests.engine.running import running
from tests.engine.test_engine import publish
from tests.engine.test_group import Echo
from tests.engine.workers import Cluster, Worker, produce, read_all
from tests.polling import eventually


@pytest.fixture
def cluster(kafka: BrokerUnderTest, tmp_path: Path) -> Iterator[Cluster]:
    """Named workers whose session outlasts the test: nobody gets a task by a timeout."""
    found = Cluster(kafka, "exactly_once", tmp_path, STREAMAPP_TEST_SESSION="300")
    yield found
    found.stop()


async def started(cluster: Cluster, *names: str) -> list[Worker]:
    workers = [cluster.start(name=name) for name in names]
    for worker in workers:
        await eventually(lambda worker=worker: worker.ready or not worker.running, within=90)
        assert worker.running, worker.tail()
    return workers


async def members(kafka: BrokerUnderTest) -> list[str]:
    async with admin_client(kafka.bootstrap) as admin:
        return [
            name.partition(" at ")[0]
            for name in await members_of(admin, f"{kafka.prefix}app-count")
        ]


async def test_the_tasks_of_a_drained_worker_go_to_others_at_once(
    kafka: BrokerUnderTest, cluster: Cluster
) -> None:
    await kafka.create_topic("in", partitions=4)
    ada, bob = await started(cluster, "ada", "bob")
    done = cluster.command("drain", "ada")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ada has finished, left its groups, and ended\n"
    assert ada.wait(10) == 0
    assert await members(kafka) == ["bob"]
    await produce(kafka, [Event(n, f"k{n % 9}", 1_000 + n) for n in range(100)])

    async def all_counted() -> bool:
        return len(await read_all(kafka.bootstrap, kafka.topic("out"))) == 100

    await eventually(all_counted, within=60)
    assert bob.running


async def test_a_worker_that_is_drained_while_it_joins_leaves_nobody_behind(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    """Under the lock of its name it can be told, before the coordinator has answered it."""
    await kafka.create_topic("in", partitions=2)
    engine = {"session_timeout": 300.0}
    bob = Echo(kafka, tmp_path, worker_name="bob", engine=engine)
    bob.go_on.clear()
    ada = Echo(kafka, tmp_path, worker_name="ada", engine=engine)
    group = f"{kafka.prefix}app-echo"
    async with running(bob.app):
        await publish(kafka, "in", [b"a"])
        await bob.busy.wait()
        async with running(ada.app) as joining:
            # It is a member by now, and waits for the other one, which finishes its batch first.
            await eventually(lambda: is_member(kafka, group, "ada"))
            Identity.request_drain(tmp_path / f"{kafka.prefix}app" / "ada")
            stopping = asyncio.create_task(joining.stop())
            await asyncio.sleep(0)
            bob.go_on.set()
            await stopping
        assert not await is_member(kafka, group, "ada")
        await bob.sent(b"a")


async def is_member(kafka: BrokerUnderTest, group: str, worker: str) -> bool:
    async with admin_client(kafka.bootstrap) as admin:
        found = await members_of(admin, group)
    return worker in [name.partition(" at ")[0] for name in found]


async def test_a_worker_that_is_stopped_by_a_signal_is_expected_back(
    kafka: BrokerUnderTest, cluster: Cluster
) -> None:
    await kafka.create_topic("in", partitions=4)
    [ada] = await started(cluster, "ada")
    await eventually(lambda: "count/3 is open" in ada.tail())
    ada.signal(signal.SIGTERM)
    assert ada.wait() == 0
    assert await members(kafka) == ["ada"]


async def test_a_worker_that_does_not_run_is_told_with_those_that_do(tmp_path: Path) -> None:
    held = Identity(tmp_path, "bob")
    with pytest.raises(LifecycleError, match=r"no worker named ada runs .*: there are bob"):
        await drain(tmp_path, "ada", 1.0)
    held.release()
    with pytest.raises(LifecycleError, match=r"no worker named bob runs .*: none does"):
        await drain(tmp_path, "bob", 1.0)


def test_a_request_that_was_left_behind_is_not_for_the_next_worker(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    Identity.request_drain(tmp_path / "ada")
    assert not Identity(tmp_path, "ada").draining


async def test_a_process_that_does_not_hold_the_lock_is_never_signalled(tmp_path: Path) -> None:
    """As the number in the file is, seen from outside of the worker's container."""
    held = Identity(tmp_path, "ada")
    (tmp_path / "ada" / "lock").write_text("1\n")
    with pytest.raises(LifecycleError, match="in its container"):
        await drain(tmp_path, "ada", 1.0)
    held.release()
