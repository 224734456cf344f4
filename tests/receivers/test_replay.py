"""A recorded file, line by line when its time has come."""

# ruff: noqa: ASYNC240  (small files on a local disk)

import json
from itertools import chain
from pathlib import Path

import pytest

from streamapp.receivers.errors import SourceError
from streamapp.receivers.file import Progress
from streamapp.receivers.replay import ReplayReceiver, time_in
from tests.brokers import BrokerUnderTest
from tests.receivers.clock import ManualClock
from tests.receivers.topics import values


@pytest.fixture
def topic(kafka: BrokerUnderTest) -> str:
    return kafka.topic("lines")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """One record at second 0, two at 10, one at 5 that is late, one without a time, one at 30."""
    path = tmp_path / "tweets.jsonl"
    seconds = [0, 10, 10, 5, None, 30]
    path.write_text(
        "".join(
            json.dumps(
                {"n": n} if s is None else {"n": n, "created_at": f"2024-01-01T00:00:{s:02}Z"}
            )
            + "\n"
            for n, s in enumerate(seconds)
        )
    )
    return path


async def replayed(
    kafka: BrokerUnderTest, topic: str, path: Path, **options: float
) -> tuple[list[tuple[float, int]], float]:
    """When how many lines had been published, in seconds from the start, and how long it took."""
    clock = ManualClock()
    began, told = clock.now, list[tuple[float, int]]()

    def show(progress: Progress) -> None:
        told.append((round(clock.now - began, 3), progress.lines))

    receiver = ReplayReceiver(
        path, topic, bootstrap=kafka.bootstrap, clock=clock, on_progress=show, **options
    )
    summary = await receiver.run()
    return told, summary.seconds


async def test_lines_come_at_the_pace_at_which_they_were_recorded(
    kafka: BrokerUnderTest, topic: str, recorded: Path
):
    told, seconds = await replayed(kafka, topic, recorded)
    assert told == [(0.0, 1), (10.0, 5), (30.0, 6)]
    assert seconds == pytest.approx(30.0)
    found = chain(*(await values(kafka.bootstrap, topic)).values())
    assert sorted(found) == recorded.read_bytes().splitlines()


async def test_a_speed_makes_it_faster(kafka: BrokerUnderTest, topic: str, recorded: Path):
    told, _ = await replayed(kafka, topic, recorded, speed=10.0)
    assert told == [(0.0, 1), (1.0, 5), (3.0, 6)]


async def test_it_goes_on_where_it_was_and_the_next_line_is_due_at_once(
    kafka: BrokerUnderTest, topic: str, recorded: Path
):
    await replayed(kafka, topic, recorded)
    with recorded.open("a") as file:
        file.write('{"n":6,"created_at":"2024-02-01T00:00:00Z"}\n')
    told, _ = await replayed(kafka, topic, recorded)
    assert told == [(0.0, 1)]
    assert len([*chain(*(await values(kafka.bootstrap, topic)).values())]) == 7


async def test_without_a_time_it_says_what_to_do(
    kafka: BrokerUnderTest, topic: str, tmp_path: Path
):
    path = tmp_path / "x.log"
    path.write_bytes(b"\nno time here\n")
    with pytest.raises(SourceError, match=r"no time in line 2: name the field .*--rate"):
        await ReplayReceiver(path, topic, bootstrap=kafka.bootstrap).run()


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (b'{"created_at":"1970-01-01T00:01:00.500Z"}', 60.5),
        (b'{"data":{"created_at":"1970-01-01T01:00:00+01:00"}}', 0.0),
        (b'{"timestamp":1700000000}', 1_700_000_000.0),
        (b'{"timestamp":1700000000123}', 1_700_000_000.123),
        (b'{"time":true}', None),
        (b'{"created_at":"soon"}', None),
        (b'{"created_at":', None),
        (b"[Thu Jan 01 00:02:00 1970] [error] x", 120.0),
        (b"1970-01-01 00:00:07,250 INFO x", 7.25),
        (b"1970-13-01 00:00:07 INFO x", None),
        (b"nothing", None),
    ],
)
def test_a_time_is_found(line: bytes, seconds: float | None):
    assert time_in(None)(line) == seconds


def test_a_field_can_be_named():
    assert time_in("a.b")(b'{"created_at":"2024-01-01T00:00:00Z","a":{"b":5}}') == 5.0
    assert time_in("a.b")(b'{"a":7}') is None


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_a_speed_that_makes_no_sense_is_refused(tmp_path: Path, speed: float):
    with pytest.raises(ValueError, match="must be positive"):
        ReplayReceiver(tmp_path, "any", speed=speed)
