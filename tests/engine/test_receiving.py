"""Receivers in workers: one owner in the cluster, replaced when it ends or dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import faust
import pytest

from streamapp import App
from streamapp.engine.receiving import Receiving
from streamapp.errors import ConfigurationError
from streamapp.receivers import FileReceiver
from streamapp.receivers.connection import client_options
from streamapp.receivers.receiver import State
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app
from tests.polling import eventually
from tests.receivers.topics import values


def app_with_receiver(kafka: BrokerUnderTest, state: Path, log: Path) -> App:
    app = make_app(kafka, state, engine={"receiver_timeout": 2.0})

    @app.receiver(app.topic(kafka.topic("lines"), partitions=3))
    def log_file(**place: Any) -> FileReceiver:
        return FileReceiver(log, follow=True, rate=2_000, **place)

    return app


@asynccontextmanager
async def receiving(app: App) -> AsyncIterator[Receiving]:
    app.finalize()
    [service] = app.engine_services()
    assert isinstance(service, Receiving)
    async with service:
        yield service


def state_of(service: Receiving) -> State:
    return service.statuses[0].state


async def test_one_of_two_workers_runs_it_and_the_other_takes_over(
    kafka: BrokerUnderTest, tmp_path: Path
):
    log = tmp_path / "x.log"
    lines = [b"%d" % number for number in range(300)]
    log.write_bytes(b"".join(line + b"\n" for line in lines[:100]))

    async def published(count: int) -> bool:
        found = await values(kafka.bootstrap, kafka.topic("lines"))
        return sum(map(len, found.values())) == count

    async with receiving(app_with_receiver(kafka, tmp_path / "b", log)) as second:
        async with receiving(app_with_receiver(kafka, tmp_path / "a", log)) as first:
            await eventually(
                lambda: {state_of(first), state_of(second)} == {State.RUNNING, State.WAITING}
            )
            await eventually(lambda: published(100))
        await eventually(lambda: state_of(second) is State.RUNNING)
        with log.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines[100:]))
        await eventually(lambda: published(300))
    found = await values(kafka.bootstrap, kafka.topic("lines"))
    assert found == {partition: lines[partition::3] for partition in range(3)}


WORKER = """
import os
from pathlib import Path
from streamapp import App
from streamapp.receivers import FileReceiver

app = App(os.environ["APP_ID"], broker="kafka://" + os.environ["BOOTSTRAP"], autodiscover=False,
          web_enabled=False, state_dir=os.environ["STATE"])

@app.receiver(os.environ["TOPIC"])
def log_file(**place):
    return FileReceiver(os.environ["LOG"], follow=True, rate=200, **place)
"""


@contextmanager
def worker(environment: dict[str, str], says: Path) -> Iterator[subprocess.Popen[bytes]]:
    with says.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "receiving_worker", "worker", "-l", "info"],
            env={**os.environ, **environment},
            cwd=environment["FOLDER"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            yield started
        finally:
            started.kill()
            started.wait()


async def test_a_killed_worker_is_replaced_and_nothing_is_repeated(
    kafka: BrokerUnderTest, tmp_path: Path
):
    log, topic = tmp_path / "x.log", kafka.topic("lines")
    (tmp_path / "receiving_worker.py").write_text(WORKER)
    lines = [b"%d" % number for number in range(10_000)]
    log.write_bytes(b"".join(line + b"\n" for line in lines))
    environment = {
        "APP_ID": f"{kafka.prefix}app",
        "BOOTSTRAP": kafka.bootstrap,
        "TOPIC": topic,
        "LOG": str(log),
        "STATE": str(tmp_path / "state"),
        "FOLDER": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(tmp_path)]),
    }

    async def published() -> int:
        return len([*chain(*(await values(kafka.bootstrap, topic)).values())])

    owner_says, other_says = tmp_path / "owner.txt", tmp_path / "other.txt"
    with worker(environment, owner_says) as owner:
        await eventually(lambda: "this process runs receiver" in owner_says.read_text())
        with worker(environment, other_says):
            await eventually(lambda: "runs elsewhere" in other_says.read_text())
            await eventually(published)
            owner.kill()
            before = await published()
            await eventually(lambda: "this process runs receiver" in other_says.read_text())

            async def goes_on() -> bool:
                return await published() > before

            await eventually(goes_on)
    found = await values(kafka.bootstrap, topic)
    count = sum(map(len, found.values()))
    assert found == {partition: lines[partition : count : len(found)] for partition in found}


async def test_an_error_that_no_retry_mends_stops_the_worker(
    kafka: BrokerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    app = make_app(kafka, tmp_path)

    @app.receiver(kafka.topic("lines"))
    def missing(**place: Any) -> FileReceiver:
        return FileReceiver(tmp_path / "missing.log", **place)

    failures: list[BaseException] = []
    monkeypatch.setattr(app, "failed", failures.append)
    async with receiving(app):
        await eventually(lambda: failures)
    assert "there is no file" in str(failures[0])


async def test_without_a_broker_it_waits_and_can_be_stopped(
    tmp_path: Path, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
):
    nobody = BrokerUnderTest(f"127.0.0.1:{unused_tcp_port}", "embedded", "p-")
    app = app_with_receiver(nobody, tmp_path, tmp_path / "x.log")
    async with receiving(app):
        await eventually(lambda: "receiver log_file waits for the broker" in caplog.text)
        assert app.failure is None


async def test_once_runs_no_receiver(kafka: BrokerUnderTest, tmp_path: Path):
    app = app_with_receiver(kafka, tmp_path, tmp_path / "x.log")
    app.once = True
    assert app.engine_services() == []


def test_two_of_one_name_are_refused():
    app = App("names", autodiscover=False)

    def feed(**place: Any) -> FileReceiver:
        return FileReceiver("x", **place)

    app.receiver("a")(feed)
    with pytest.raises(ConfigurationError, match="two receivers named feed"):
        app.receiver("b")(feed)
    app.receiver("b", name="other")(feed)
    assert set(app.receivers) == {"feed", "other"}


async def test_receivers_are_given_the_credentials(tmp_path: Path, unused_tcp_port: int):
    app = App(
        "credentials",
        broker=f"kafka://127.0.0.1:{unused_tcp_port}",
        autodiscover=False,
        state_dir=tmp_path,
        broker_credentials=faust.SASLCredentials(username="u", password="p"),
    )
    places: list[dict[str, Any]] = []

    @app.receiver("a")
    def feed(**place: Any) -> FileReceiver:
        places.append(place)
        return FileReceiver("x", follow=True, **place)

    receiving = Receiving(app, session_timeout=6.0)
    await receiving.on_start()
    await receiving.on_stop()
    assert client_options(places[0]["bootstrap"]) == app.kafka_options()
    assert client_options(places[0]["bootstrap"])["sasl_plain_password"] == "p"
