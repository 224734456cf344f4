"""Workers as processes of their own, and what they have done, read from the outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamapp.faults import ENVIRONMENT
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.jobs import Event

__all__ = [
    "Cluster",
    "Worker",
    "partition_of",
    "partitions_of",
    "produce",
    "read_all",
    "read_table",
]


JOBS = "tests.engine.jobs"
"""The application that is run unless a test names another one."""


class Worker:
    """A worker process of an application, which a module declares; its log is in `log`."""

    def __init__(
        self, environment: dict[str, str], log: Path, *arguments: str, application: str = JOBS
    ) -> None:
        self.log = log
        self._file = log.open("ab")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "faust",
                "-A",
                application,
                "worker",
                "-l",
                "info",
                *arguments,
            ],
            env={**os.environ, **environment},
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it has said that it is at work: from then on it ends well when it is told to."""
        return " runs " in self.log.read_text(errors="replace")

    @property
    def state(self) -> str:
        """What /proc says of it: `T` is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def said(self, what: str) -> int:
        """How often something is in its log."""
        return self.log.read_text(errors="replace").count(what)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._file.close()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 120.0) -> int:
        """Return the exit code, once it has one."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker goes on for ever:\n{self.tail()}") from None

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-6000:]


class Cluster:
    """Workers of the test application on one broker."""

    def __init__(
        self,
        kafka: BrokerUnderTest,
        guarantee: str,
        directory: Path,
        application: str = JOBS,
        **environment: str,
    ) -> None:
        self.kafka = kafka
        self._application = application
        self.state = directory / "state"
        self._logs = directory
        self._environment = {
            "STREAMAPP_TEST_PREFIX": kafka.prefix,
            "STREAMAPP_TEST_BOOTSTRAP": kafka.bootstrap,
            "STREAMAPP_TEST_GUARANTEE": guarantee,
            "STREAMAPP_TEST_STATE": str(self.state),
            **environment,
        }
        self.workers: list[Worker] = []

    def start(self, *arguments: str, name: str | None = None, fault: str | None = None) -> Worker:
        """Start a worker, with a fault armed if one is named."""
        environment = dict(self._environment)
        if fault is not None:
            environment[ENVIRONMENT] = fault
        named = () if name is None else ("--name", name)
        log = self._logs / f"{name or 'worker'}-{len(self.workers)}.log"
        worker = Worker(environment, log, *named, *arguments, application=self._application)
        self.workers.append(worker)
        return worker

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `streamapp -A … COMMAND` to its end, where the workers run."""
        return subprocess.run(
            [sys.executable, "-m", "streamapp", "-A", "tests.engine.jobs", *arguments],
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def finish(self) -> None:
        """Run a worker over what is left."""
        worker = self.start("--once", name="a")
        assert worker.wait() == 0, worker.tail()

    def stop(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            if worker.running:
                worker.kill()


async def produce(kafka: BrokerUnderTest, events: Iterable[Event], partitions: int = 4) -> None:
    """Publish events, all of one key in one partition."""
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, enable_idempotence=True
    ) as producer:
        for event in events:
            await producer.send(
                kafka.topic("in"),
                msgspec.json.encode(event),
                key=event.key.encode(),
                partition=partition_of(event.key, partitions),
            )
        await producer.flush()


def partition_of(key: str, partitions: int = 4) -> int:
    """Where an event of a key goes."""
    return sum(key.encode()) % partitions


async def partitions_of(bootstrap: str, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic, none when it is not there yet."""
    async with admin_client(bootstrap) as admin:
        [found] = await admin.describe_topics([topic])
    return [TopicPartition(topic, partition["partition"]) for partition in found["partitions"]]


async def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Return all records of a topic up to its last stable offset, read committed."""
    partitions = await partitions_of(bootstrap, topic)
    if not partitions:
        return []
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    ) as consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        left = set(partitions)
        while left := {tp for tp in left if await consumer.position(tp) < ends[tp]}:
            for tp, found in (await consumer.getmany(*left, timeout_ms=100)).items():
                records.extend(record for record in found if record.offset < ends[tp])
        return records


async def read_table(bootstrap: str, changelog: str) -> dict[bytes, bytes]:
    """Return what a changelog amounts to: the last value of each key, tombstones taken off."""
    latest: dict[tuple[int, bytes], bytes | None] = {}
    for record in await read_all(bootstrap, changelog):
        latest[record.partition, record.key] = record.value
    table: dict[bytes, bytes] = defaultdict(bytes)
    for (_, key), value in latest.items():
        if value is not None:
            assert key not in table, f"{key!r} is in two partitions of {changelog}"
            table[key] = value
    return dict(table)
