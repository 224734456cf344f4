"""Ordinary Faust code runs as it is, beside batch agents."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import faust
from aiokafka import AIOKafkaProducer

import streamapp
from tests.brokers import BrokerUnderTest
from tests.engine.workers import read_all
from tests.polling import eventually


def start_worker(environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "faust", "-A", "tests.engine.classic", "worker", "-l", "info"],
        env={**os.environ, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


async def test_a_faust_agent_with_a_table_runs_beside_a_batch_agent(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    name = f"{kafka.prefix}classic"
    for topic in ("greetings", "greeted"):
        await kafka.create_topic(f"{name}-{topic}", partitions=1)
    with (tmp_path / "log").open("wb") as log:
        worker = start_worker(
            {
                "STREAMAPP_TEST_PREFIX": name,
                "STREAMAPP_TEST_BOOTSTRAP": kafka.bootstrap,
                "STREAMAPP_TEST_STATE": str(tmp_path / "state"),
            },
            log,
        )
    try:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            for person in ("ada", "bob", "ada"):
                await producer.send_and_wait(
                    f"{name}-greetings", b'{"to_name": "%s"}' % person.encode()
                )

        async def shouted() -> bool:
            found = [r.value.decode() for r in await read_all(kafka.bootstrap, f"{name}-shouted")]
            return found == ["HELLO ADA 1", "HELLO BOB 1", "HELLO ADA 2"]

        try:
            await eventually(shouted)
        except AssertionError:
            print((tmp_path / "log").read_text()[-4000:])
            raise
    finally:
        worker.kill()
        worker.wait()


def test_what_is_fausts_is_here_under_its_name() -> None:
    assert streamapp.Record is faust.Record
    assert streamapp.Stream is faust.Stream
    assert not hasattr(streamapp, "no_such_name")
