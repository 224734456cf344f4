"""Lines from sockets: published once, and a connection's end is the receipt."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, count
from pathlib import Path

import pytest

from streamapp.faults import ENVIRONMENT
from streamapp.receivers.errors import SourceError
from streamapp.receivers.live import LiveReceiver, _reset_when_closed
from streamapp.receivers.sockets import ListenReceiver, SocketReceiver
from streamapp.receivers.topics import dead_letters_of
from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.topics import read_topic, values


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


@pytest.fixture(params=["memory", "log"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Every test runs without a write-ahead log and with one."""
    return tmp_path / "wal" if request.param == "log" else None


@asynccontextmanager
async def running(receiver: LiveReceiver) -> AsyncIterator[asyncio.Task[object]]:
    task = asyncio.create_task(receiver.run())
    try:
        yield task
    finally:
        receiver.stop()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def listening(kafka: BrokerUnderTest, topic: str, log: Path | None) -> AsyncIterator[int]:
    receiver = ListenReceiver(0, topic, bootstrap=kafka.bootstrap, log=log)
    async with running(receiver):
        await eventually(lambda: receiver.port)
        yield receiver.port


async def send(port: int, *chunks: bytes) -> bool:
    """Send, close our side, and return whether the other side has confirmed."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
        confirmed = await reader.read() == b""
        writer.close()
    except OSError:
        return False
    return confirmed


async def published(kafka: BrokerUnderTest, topic: str) -> list[bytes]:
    return sorted(chain(*(await values(kafka.bootstrap, topic)).values()))


async def test_every_sender_is_published_and_confirmed(
    kafka: BrokerUnderTest, topic: str, log: Path | None
):
    async with listening(kafka, topic, log) as port:
        sent = [[b"%d-%d" % (sender, number) for number in range(200)] for sender in range(5)]
        confirmed = await asyncio.gather(*(send(port, b"\n".join(lines)) for lines in sent))
        assert all(confirmed)
        if log is None:
            assert await published(kafka, topic) == sorted(chain(*sent))
    assert await published(kafka, topic) == sorted(chain(*sent))


async def test_lines_come_together_however_they_are_cut(
    kafka: BrokerUnderTest, topic: str, log: Path | None
):
    async with listening(kafka, topic, log) as port:
        assert await send(port, b"on", b"e\r", b"\n\nt", b"wo\nthree")
    assert await published(kafka, topic) == [b"one", b"three", b"two"]


async def test_a_connection_that_breaks_in_mid_line_leaves_no_half_line(
    kafka: BrokerUnderTest, topic: str
):
    receiver = ListenReceiver(0, topic, bootstrap=kafka.bootstrap)
    async with running(receiver):
        await eventually(lambda: receiver.port)
        _, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        writer.write(b"whole\nhal")
        await writer.drain()
        await eventually(lambda: receiver.summary.lines)
        _reset_when_closed(writer, True)
        writer.transport.abort()
        await eventually(lambda: receiver.summary.cut)
    assert await published(kafka, topic) == [b"whole"]


async def test_a_line_that_is_too_long_goes_to_the_dead_letters(
    kafka: BrokerUnderTest, log: Path | None
):
    topic = await kafka.create_topic("small", max_message_bytes=10_000)
    async with listening(kafka, topic, log) as port:
        assert await send(port, b"one\n" + b"x" * 200_000 + b"\ntwo\n")
    assert await published(kafka, topic) == [b"one", b"two"]
    (letter,) = (await read_topic(kafka.bootstrap, dead_letters_of(topic)))[0]
    assert dict(letter.headers)["length"] == b"200000"


async def test_a_socket_is_read_until_its_end(kafka: BrokerUnderTest, topic: str, log: Path | None):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(b"%03d\n" % number for number in range(500)))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    receiver = SocketReceiver(
        "127.0.0.1", port, topic, once=True, bootstrap=kafka.bootstrap, log=log
    )
    summary = await receiver.run()
    server.close()
    assert (summary.lines, summary.connections) == (500, 1)
    assert await published(kafka, topic) == [b"%03d" % number for number in range(500)]
    assert not receiver.status.reliable


async def test_a_socket_that_is_not_there_is_tried_again(
    kafka: BrokerUnderTest, topic: str, unused_tcp_port: int
):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"at last\n")
        writer.close()

    receiver = SocketReceiver(
        "127.0.0.1", unused_tcp_port, topic, once=True, bootstrap=kafka.bootstrap
    )
    task = asyncio.create_task(receiver.supervised())
    await eventually(lambda: receiver.status.restarts)
    assert "Connect" in (receiver.status.last_error or "")
    async with await asyncio.start_server(talk, "127.0.0.1", unused_tcp_port):
        await task
    assert await published(kafka, topic) == [b"at last"]


async def test_a_port_in_use_is_an_error(kafka: BrokerUnderTest, topic: str):
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(SourceError, match=f"cannot listen on 127.0.0.1:{port}"):
            await ListenReceiver(port, topic, bootstrap=kafka.bootstrap).run()


async def test_senders_wait_while_the_log_is_full(
    kafka: BrokerUnderTest, topic: str, tmp_path: Path
):
    receiver = ListenReceiver(
        0, topic, bootstrap=kafka.bootstrap, log=tmp_path / "wal", log_bytes=10_000
    )
    lines = [b"%05d" % number + b"x" * 100 for number in range(2_000)]
    async with running(receiver):
        await eventually(lambda: receiver.port)
        chunks = [b"".join(line + b"\n" for line in lines[i : i + 50]) for i in range(0, 2_000, 50)]
        assert await send(receiver.port, *chunks)
    assert await published(kafka, topic) == lines


def ingest(
    kafka: BrokerUnderTest, topic: str, port: int, wal: Path, fault: str = ""
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamapp", "ingest", "listen", str(port), "--topic", topic]
    command += ["--bootstrap", kafka.bootstrap, "--wal", str(wal), "--session-timeout", "2"]
    return subprocess.Popen(
        command, env={**os.environ, ENVIRONMENT: fault}, stderr=subprocess.DEVNULL
    )


async def test_killed_with_a_log_every_confirmed_line_is_published_once(
    kafka: BrokerUnderTest, topic: str, tmp_path: Path, unused_tcp_port: int
):
    wal, confirmed, tries = tmp_path / "wal", list[bytes](), count()
    faults = ("receiver.logged:3", "receiver.log-committed:3", "receiver.before-commit:3", "")
    for fault in faults:
        process = ingest(kafka, topic, unused_tcp_port, wal, fault)

        async def sends(process: subprocess.Popen[bytes] = process) -> bool:
            """Lines that no try before had, until they are confirmed or the process is gone."""
            lines = [b"%d-%d" % (next(tries), number) for number in range(100)]
            if await send(unused_tcp_port, b"\n".join(lines)):
                confirmed.extend(lines)
                return True
            return process.poll() is not None

        if fault:
            while process.poll() is None:
                await eventually(sends)
        else:
            await eventually(sends)
            process.send_signal(signal.SIGTERM)
        assert process.wait() == (-signal.SIGKILL if fault else 0)
    found = await published(kafka, topic)
    assert len(found) == len(set(found))
    assert set(confirmed) <= set(found)
    assert len(confirmed) >= 100, "nothing was confirmed: a fault came before each confirmation"
