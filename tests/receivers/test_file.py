"""A file into a topic: every line exactly once, in order, as it is."""

# ruff: noqa: ASYNC240  (small files on a local disk)

import asyncio
import os
import re
from itertools import chain
from pathlib import Path

import pytest

from streamapp.receivers.errors import SourceError
from streamapp.receivers.file import FileReceiver, Progress
from streamapp.receivers.topics import dead_letters_of
from streamapp.sample_logs import generate
from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.clock import ManualClock
from tests.receivers.topics import read_topic, values

APACHE_LOG = Path(os.environ.get("STREAMAPP_APACHE_LOG", "Apache_2k.log"))


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def round_robin(lines: list[bytes], partitions: int = 4) -> dict[int, list[bytes]]:
    return {partition: lines[partition::partitions] for partition in range(partitions)}


async def test_every_line_is_published_once_in_order(kafka: BrokerUnderTest, topic: str, log: Path):
    lines = list(generate(3_000, seed=1))
    log.write_bytes(b"\n".join(lines) + b"\n")
    receiver = FileReceiver(log, topic, bootstrap=kafka.bootstrap, batch_lines=700)
    summary = await receiver.run()
    assert await values(kafka.bootstrap, topic) == round_robin(lines)
    assert (summary.lines, summary.transactions) == (3_000, 5)
    assert summary.size == log.stat().st_size
    assert summary.position is not None
    assert summary.position.line == 3_000


async def test_a_second_run_publishes_only_what_is_new(
    kafka: BrokerUnderTest, topic: str, log: Path
):
    log.write_bytes(b"one\ntwo\n")
    await FileReceiver(log, topic, bootstrap=kafka.bootstrap).run()
    with log.open("ab") as file:
        file.write(b"three\n")
    summary = await FileReceiver(log, topic, bootstrap=kafka.bootstrap).run()
    assert (summary.resumed_at, summary.lines) == (8, 1)
    assert await values(kafka.bootstrap, topic) == round_robin([b"one", b"two", b"three"])
    summary = await FileReceiver(log, topic, bootstrap=kafka.bootstrap).run()
    assert (summary.resumed_at, summary.lines, summary.transactions) == (14, 0, 0)


async def test_another_name_publishes_the_file_again(kafka: BrokerUnderTest, topic: str, log: Path):
    log.write_bytes(b"one\n")
    for name in ("first", "second"):
        await FileReceiver(log, topic, bootstrap=kafka.bootstrap, name=name).run()
    found = await values(kafka.bootstrap, topic)
    assert [*chain(*found.values())] == [b"one", b"one"]


async def test_bytes_are_published_as_they_are(kafka: BrokerUnderTest, topic: str, log: Path):
    log.write_bytes(b"caf\xe9 \xff\x00\r\n\r\n\n  indented \nlast")
    summary = await FileReceiver(log, topic, bootstrap=kafka.bootstrap, partitions=1).run()
    assert await values(kafka.bootstrap, topic) == {
        0: [b"caf\xe9 \xff\x00", b"  indented ", b"last"]
    }
    assert (summary.lines, summary.empty) == (3, 2)


async def test_a_key_is_what_a_pattern_finds(kafka: BrokerUnderTest, topic: str, log: Path):
    log.write_bytes(b"user=ann in\nuser=bob in\nnobody\nuser=ann out\nuser= out\n")
    await FileReceiver(log, topic, bootstrap=kafka.bootstrap, key=re.compile(rb"user=(\w*)")).run()
    found = await read_topic(kafka.bootstrap, topic)
    assert {(record.key, record.value) for record in chain(*found.values())} == {
        (b"ann", b"user=ann in"),
        (b"bob", b"user=bob in"),
        (None, b"nobody"),
        (b"ann", b"user=ann out"),
        (b"", b"user= out"),
    }


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        (rb"a(?P<key>.)(.)", b"b"),
        (rb"a(.)(.)", b"b"),
        (rb"ab", b"ab"),
        (rb".+", b"abc" + b"d" * 253),
    ],
)
async def test_the_group_that_is_the_key(log: Path, pattern: bytes, key: bytes):
    receiver = FileReceiver(log, "any", key=re.compile(pattern))
    assert receiver._key_of(b"abc" + b"d" * 1000) == key


async def test_a_line_that_is_too_long_goes_to_the_dead_letters(
    kafka: BrokerUnderTest, log: Path, caplog: pytest.LogCaptureFixture
):
    topic = await kafka.create_topic("small", max_message_bytes=10_000)
    log.write_bytes(b"one\n" + b"x" * 20_000 + b"\ntwo\n")
    summary = await FileReceiver(log, topic, bootstrap=kafka.bootstrap).run()
    assert await values(kafka.bootstrap, topic) == {0: [b"one", b"two"]}
    (letter,) = (await read_topic(kafka.bootstrap, dead_letters_of(topic)))[0]
    assert letter.value == b"x" * 20_000
    headers = dict(letter.headers)
    assert headers["source"] == bytes(log)
    assert (headers["line"], headers["offset"], headers["length"]) == (b"2", b"4", b"20000")
    assert summary.oversized == 1
    assert f"{log}, line 2 (at byte 4) has 20000 bytes" in caplog.text


async def test_a_rate_is_kept(kafka: BrokerUnderTest, topic: str, log: Path):
    log.write_bytes(b"".join(b"%d\n" % number for number in range(1_000)))
    clock = ManualClock()
    summary = await FileReceiver(
        log, topic, bootstrap=kafka.bootstrap, rate=100.0, clock=clock
    ).run()
    assert summary.seconds == pytest.approx(10.0)
    assert summary.transactions == 50


async def test_progress_is_told_after_every_transaction(
    kafka: BrokerUnderTest, topic: str, log: Path
):
    log.write_bytes(b"one\ntwo\nthree\n")
    told: list[Progress] = []
    await FileReceiver(
        log, topic, bootstrap=kafka.bootstrap, batch_lines=2, on_progress=told.append
    ).run()
    assert told == [
        Progress(lines=2, size=8, lag=6, total=14),
        Progress(lines=3, size=14, lag=0, total=14),
    ]


async def test_a_followed_file_is_published_as_it_grows_until_stopped(
    kafka: BrokerUnderTest, topic: str, log: Path
):
    receiver = FileReceiver(log, topic, bootstrap=kafka.bootstrap, follow=True, partitions=1)
    running = asyncio.create_task(receiver.run())

    async def published(*lines: bytes) -> bool:
        return (await values(kafka.bootstrap, topic)).get(0) == list(lines)

    log.write_bytes(b"one\ntw")
    await eventually(lambda: published(b"one"))
    with log.open("ab") as file:
        file.write(b"o\n")
    await eventually(lambda: published(b"one", b"two"))
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(b"three\n")
    await eventually(lambda: published(b"one", b"two", b"three"))
    receiver.stop()
    summary = await running
    assert summary.lines == 3


async def test_a_file_that_is_not_there_is_an_error(log: Path):
    with pytest.raises(SourceError, match="there is no file"):
        await FileReceiver(log, "any").run()


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": -1.0}, {"batch_lines": 0}])
def test_settings_that_make_no_sense_are_refused(log: Path, options: dict[str, float]):
    with pytest.raises(ValueError, match="must be positive"):
        FileReceiver(log, "any", **options)  # type: ignore[arg-type]


async def test_a_real_log_arrives_whole(kafka: BrokerUnderTest, topic: str):
    if not APACHE_LOG.exists():
        pytest.skip(f"no real log at {APACHE_LOG}: name one with STREAMAPP_APACHE_LOG")
    lines = [line.removesuffix(b"\r") for line in APACHE_LOG.read_bytes().split(b"\n")]
    await FileReceiver(APACHE_LOG, topic, bootstrap=kafka.bootstrap).run()
    assert await values(kafka.bootstrap, topic) == round_robin([line for line in lines if line])
