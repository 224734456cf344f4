"""Ordinary Faust code runs as it is, beside batch agents."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import faust
from aiokafka import AIOKafkaProducer

import streamapp
from tests.brokers import BrokerUnderTest, admin_client
from tests.engine.workers import read_all
from tests.polling import eventually


def start_worker(environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "faust", "-A", "tests.engine.classic", "worker", "-l", "info"],
        env={**os.environ, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


@asynccontextmanager
async def classic_worker(kafka: BrokerUnderTest, folder: Path, name: str) -> AsyncIterator[None]:
    """Run a worker; show the end of its log when a test fails."""
    log = folder / "log"
    with log.open("wb") as file:
        worker = start_worker(
            {
                "STREAMAPP_TEST_PREFIX": name,
                "STREAMAPP_TEST_BOOTSTRAP": kafka.bootstrap,
                "STREAMAPP_TEST_STATE": str(folder / "state"),
            },
            file,
        )
    try:
        yield
    except AssertionError:
        print(log.read_text()[-4000:])
        raise
    finally:
        worker.kill()
        worker.wait()


async def greet(kafka: BrokerUnderTest, name: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for person in ("ada", "bob", "ada"):
            await producer.send_and_wait(
                f"{name}-greetings", b'{"to_name": "%s"}' % person.encode()
            )


async def all_are_shouted(kafka: BrokerUnderTest, name: str) -> None:
    async def shouted() -> bool:
        found = [r.value.decode() for r in await read_all(kafka.bootstrap, f"{name}-shouted")]
        return found == ["HELLO ADA 1", "HELLO BOB 1", "HELLO ADA 2"]

    await eventually(shouted)


async def test_a_faust_agent_with_a_table_runs_beside_a_batch_agent(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    name = f"{kafka.prefix}classic"
    for topic in ("greetings", "greeted"):
        await kafka.create_topic(f"{name}-{topic}", partitions=1)
    async with classic_worker(kafka, tmp_path, name):
        await greet(kafka, name)
        await all_are_shouted(kafka, name)


async def test_on_an_empty_broker_the_topics_are_made_before_faust_subscribes(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    name = f"{kafka.prefix}classic"
    async with classic_worker(kafka, tmp_path, name), admin_client(kafka.bootstrap) as admin:

        async def made() -> bool:
            return f"{name}-greetings" in await admin.list_topics()

        await eventually(made)
        await greet(kafka, name)
        await all_are_shouted(kafka, name)
    assert "Ignoring missing topic" not in (tmp_path / "log").read_text()


def test_what_is_fausts_is_here_under_its_name() -> None:
    assert streamapp.Record is faust.Record
    assert streamapp.Stream is faust.Stream
    assert not hasattr(streamapp, "no_such_name")
