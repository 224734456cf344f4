"""kcat, as an operator would use it to look into a broker."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.brokers import BrokerUnderTest
from tests.conformance.clients import values, write

pytestmark = pytest.mark.skipif(
    shutil.which("kcat") is None, reason="the program kcat is not installed"
)


def kcat(kafka: BrokerUnderTest, *arguments: str, text: str = "") -> str:
    """Run kcat and return what it prints; raises with what it says when it fails."""
    result = subprocess.run(
        ["kcat", "-b", kafka.bootstrap, *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


async def test_it_lists_topics_and_partitions(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t", partitions=3)

    [found] = json.loads(kcat(kafka, "-L", "-J", "-t", topic))["topics"]

    assert found["topic"] == topic
    assert [partition["partition"] for partition in found["partitions"]] == [0, 1, 2]


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
async def test_it_produces(kafka: BrokerUnderTest, codec: str) -> None:
    topic = await kafka.create_topic("t")

    kcat(kafka, "-P", "-t", topic, "-z", codec, "-K:", text="k:one\nk:two\n")

    assert await values(kafka, topic) == [b"one", b"two"]


async def test_it_consumes_to_the_end(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"one", b"two"])

    assert kcat(kafka, "-C", "-t", topic, "-e", "-q", "-f", "%o=%s ") == "0=one 1=two "


async def test_it_consumes_as_a_group(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"one", b"two"])
    settings = ["-X", "auto.offset.reset=earliest", "-e", "-q"]

    first = kcat(kafka, *settings, "-G", f"{kafka.prefix}group", topic)
    second = kcat(kafka, *settings, "-G", f"{kafka.prefix}group", topic)

    assert (first, second) == ("one\ntwo\n", "")


async def test_it_finds_an_offset_by_timestamp(kafka: BrokerUnderTest) -> None:
    topic = await kafka.create_topic("t")
    await write(kafka, topic, [b"one"])

    assert kcat(kafka, "-Q", "-t", f"{topic}:0:0").split() == [topic, "[0]", "offset", "0"]
