"""The broker's life: started, stopped, killed, and started again where it left off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamapp.broker import Broker, DataDirectoryLocked, ErrorCode
from streamapp.cli.broker import broker as command
from tests.broker.building import batch
from tests.broker.wire import Client, create_topic, fetch, produce

pytestmark = pytest.mark.broker

A_BATCH = batch((None, b"value"))


async def test_a_killed_broker_is_replaced_on_the_same_port_with_the_same_records(
    tmp_path: Path,
) -> None:
    first = Broker(data=tmp_path)
    await first.start()
    async with Client(first) as client:
        await create_topic(client, "t", retention_ms="-1")
        for _ in range(3):
            await produce(client, "t", A_BATCH)
        first.kill()
        assert await client.is_closed()

    async with Broker(first.port, tmp_path) as second, Client(second) as client:
        assert second.bootstrap == first.bootstrap
        fetched = await fetch(client, "t", 0)
        assert fetched.high_watermark == 3
        assert len(fetched.records) == 3 * len(A_BATCH)
        assert (await produce(client, "t", A_BATCH)).base_offset == 3


@pytest.mark.parametrize("fsync", [False, True])
async def test_a_stopped_broker_lets_go_of_its_directory(tmp_path: Path, fsync: bool) -> None:
    for count in range(2):
        async with Broker(data=tmp_path, fsync=fsync) as broker, Client(broker) as client:
            with pytest.raises(DataDirectoryLocked):
                await Broker(data=tmp_path).start()
            if not count:
                await create_topic(client, "t")
            assert (await produce(client, "t", A_BATCH)).base_offset == count


async def test_a_port_that_is_taken_is_an_error_and_the_directory_is_free_again(
    broker: Broker, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await Broker(broker.port, tmp_path).start()

    async with Broker(data=tmp_path):
        pass


async def test_without_a_directory_nothing_stays() -> None:
    async with Broker() as first, Client(first) as client:
        await create_topic(client, "t")
    async with Broker(first.port) as second, Client(second) as client:
        answer = await produce(client, "t", A_BATCH)

    assert answer.error_code is ErrorCode.unknown_topic_or_partition


async def test_logs_are_cleaned_in_the_background() -> None:
    async with (
        Broker(cleanup_interval_seconds=0.001) as broker,
        Client(broker) as client,
    ):
        await create_topic(client, "t", retention_ms="1")
        await produce(client, "t", A_BATCH)
        while (await fetch(client, "t", 1)).log_start_offset == 0:
            pass  # each round is a request to the broker, which goes on meanwhile

    assert broker.config.cleanup_interval_seconds == 0.001


async def test_on_all_addresses_clients_are_told_the_one_they_have_found() -> None:
    async with Broker(host="0.0.0.0") as broker, Client(broker) as client:
        metadata = await client.call("Metadata", 5, topics=None)
        coordinator = await client.call("FindCoordinator", 1, key="g")

    assert metadata.brokers[0].host == coordinator.host == "127.0.0.1"


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="no_such_setting"):
        Broker(no_such_setting=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_listens_and_stops_when_it_is_told_to(
    number: signal.Signals, tmp_path: Path
) -> None:
    arguments = ["--port", "0", "--data", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamapp.cli.broker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on 127.0.0.1:")

    second = subprocess.run(
        [sys.executable, "-m", "streamapp.cli.broker", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    process.send_signal(number)
    _, messages = process.communicate()

    assert process.returncode == 0
    assert "not for production" in messages
    assert second.returncode == 1
    assert "in use by another broker" in second.stderr


def test_the_command_s_help_has_an_example() -> None:
    result = CliRunner().invoke(command, ["--help"])

    assert result.exit_code == 0
    assert "Example" in result.output
    assert "kcat -b" in result.output


def test_the_command_refuses_options_that_exclude_each_other() -> None:
    result = CliRunner().invoke(command, ["--memory", "--data", "somewhere"])

    assert result.exit_code == 2
    assert "exclude each other" in result.output
