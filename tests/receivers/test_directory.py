"""The files of a directory: every line once, whatever names its files are given."""

# ruff: noqa: ASYNC220  (small files on a local disk; nothing else runs meanwhile)

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from streamapp.faults import ENVIRONMENT
from streamapp.receivers.directory import (
    FORGET,
    DirectoryPosition,
    DirectoryReceiver,
    DirectorySummary,
    FilePart,
)
from streamapp.receivers.errors import SourceError
from streamapp.receivers.topics import dead_letters_of
from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.clock import ManualClock
from tests.receivers.topics import read_topic, values


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


async def publish(kafka: BrokerUnderTest, topic: str, logs: Path) -> DirectorySummary:
    return await DirectoryReceiver(logs, topic, bootstrap=kafka.bootstrap).run()


async def published(kafka: BrokerUnderTest, topic: str) -> list[bytes]:
    return sorted(chain(*(await values(kafka.bootstrap, topic)).values()))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_all_files_are_published_and_then_only_what_is_new(
    kafka: BrokerUnderTest, topic: str, logs: Path
):
    append(logs / "a.log", b"a1\na2\n")
    append(logs / "b.log", b"b1\r\n\nb2")
    append(logs / ".hidden", b"no\n")
    append(logs / "c.log.gz", b"no\n")
    summary = await publish(kafka, topic, logs)
    assert (summary.files, summary.lines, summary.empty) == (2, 4, 1)
    append(logs / "a.log", b"a3\n")
    append(logs / "d.log", b"d1\n")
    summary = await publish(kafka, topic, logs)
    assert (summary.files, summary.lines) == (1, 2)
    assert await published(kafka, topic) == [b"a1", b"a2", b"a3", b"b1", b"b2", b"d1"]
    assert (await publish(kafka, topic, logs)).transactions == 0


async def test_files_that_are_alike_are_not_taken_for_one(
    kafka: BrokerUnderTest, topic: str, logs: Path
):
    for name in ("part-0", "part-1", "part-2"):
        append(logs / name, b"header\n" * 300)
        await publish(kafka, topic, logs)
    assert len(await published(kafka, topic)) == 900


@pytest.mark.parametrize("how", ["renamed", "copied and truncated"])
async def test_a_rotated_file_goes_on_under_its_new_name(
    kafka: BrokerUnderTest, topic: str, logs: Path, how: str
):
    log, old = logs / "x.log", logs / "x.log.1"
    append(log, b"1\n2\n")
    await publish(kafka, topic, logs)
    append(log, b"3\n")
    if how == "renamed":
        log.rename(old)
    else:
        shutil.copyfile(log, old)
        os.truncate(log, 0)
    append(log, b"4\n")
    await publish(kafka, topic, logs)
    append(log, b"5\n")
    await publish(kafka, topic, logs)
    assert await published(kafka, topic) == [b"1", b"2", b"3", b"4", b"5"]


async def test_a_line_that_is_too_long_goes_to_the_dead_letters(kafka: BrokerUnderTest, logs: Path):
    topic = await kafka.create_topic("small", max_message_bytes=10_000)
    append(logs / "x.log", b"one\n" + b"x" * 700_000 + b"\ntwo\n")
    assert (await publish(kafka, topic, logs)).oversized == 1
    assert await published(kafka, topic) == [b"one", b"two"]
    (letter,) = (await read_topic(kafka.bootstrap, dead_letters_of(topic)))[0]
    headers = dict(letter.headers)
    assert (headers["line"], headers["offset"], headers["length"]) == (b"2", b"4", b"700000")


async def test_followed_it_waits_for_newlines_and_new_files(
    kafka: BrokerUnderTest, topic: str, logs: Path
):
    receiver = DirectoryReceiver(logs, topic, follow=True, bootstrap=kafka.bootstrap)
    running = asyncio.create_task(receiver.run())
    append(logs / "a.log", b"1\n2")
    await eventually(lambda: receiver.summary.lines == 1)
    append(logs / "b.log", b"3\n")
    await eventually(lambda: receiver.summary.lines == 2)
    append(logs / "a.log", b"2\n")
    await eventually(lambda: receiver.summary.lines == 3)
    receiver.stop()
    await running
    assert await published(kafka, topic) == [b"1", b"22", b"3"]


async def test_killed_where_it_hurts_it_repeats_nothing(
    kafka: BrokerUnderTest, topic: str, logs: Path
):
    for number in range(6):
        append(logs / f"{number}.log", b"".join(b"%d-%03d\n" % (number, i) for i in range(500)))
    command = [sys.executable, "-m", "streamapp", "ingest", "dir", str(logs), "--topic", topic]
    command += ["--bootstrap", kafka.bootstrap, "--session-timeout", "2"]
    for fault in ("before-delivery:3", "before-commit:3", "after-commit:3", ""):
        fault = f"receiver.{fault}" if fault else ""
        process = subprocess.Popen(
            command, env={**os.environ, ENVIRONMENT: fault}, stderr=subprocess.PIPE
        )
        _, errors = process.communicate()
        assert process.returncode == (-signal.SIGKILL if fault else 0), errors.decode()
    wanted = [b"%d-%03d" % (number, i) for number in range(6) for i in range(500)]
    assert await published(kafka, topic) == wanted


def test_a_file_that_is_gone_is_forgotten_after_a_while(logs: Path):
    clock = ManualClock()
    receiver = DirectoryReceiver(logs, "any", clock=clock)
    gone = FilePart("x.log", 1, 2, 3, 1, "head", "tail")
    position = DirectoryPosition((gone,))
    assert receiver._scan(position) == ([], [gone])
    clock.now += FORGET - 1
    assert receiver._scan(position) == ([], [gone])
    clock.now += 1
    assert receiver._scan(position) == ([], [])


async def test_without_a_directory_it_says_so(tmp_path: Path):
    with pytest.raises(SourceError, match="there is no directory"):
        await DirectoryReceiver(tmp_path / "nothing", "any").run()
