"""`streamapp dead-letters`: what it lists, and that it publishes each letter once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streamapp.errors import TaskClosed
from streamapp.faults import ENVIRONMENT
from streamapp.ledger.reading import LedgerReader
from streamapp.republishing import DeadLetters, KeptLetter, Outcome, Terms
from tests.brokers import BrokerUnderTest
from tests.cli.poisoned import build
from tests.engine.running import run_once
from tests.engine.workers import read_all


class Poisoned:
    """The application, with a dead letter of each kind in its topic, and its commands."""

    def __init__(self, kafka: BrokerUnderTest, state: Path) -> None:
        self.kafka = kafka
        self.numbers = f"{kafka.prefix}numbers"
        self.letters = f"{kafka.prefix}poisoned-dead-letters"
        self._state = state
        #: When the records happened: an hour ago.
        self.at = round(time.time() * 1000) - 3_600_000

    async def prepare(self) -> None:
        """Publish numbers, and let the application work: letters 0 to 2 come from it, 3 is cut."""
        await self.kafka.create_topic(self.letters, partitions=1)
        await self.kafka.create_topic("numbers", partitions=2)
        async with AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap) as producer:
            for value, key in ((b"1", b"a"), (b"-1", b"b"), (b"{", None), (b"-2", b"c")):
                await producer.send_and_wait(
                    self.numbers,
                    value,
                    key,
                    partition=1,
                    timestamp_ms=self.at,
                    headers=[("from", b"a test")],
                )
        await run_once(self.build())
        await self.put("99", offset="9", error="RecordError: too large", **{"cut-from": "5000"})
        async with AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap) as producer:
            await producer.send_and_wait(self.letters, b"what somebody else has put here")

    async def put(self, value: str, **headers: str) -> None:
        """Put a letter into the topic."""
        told = {
            "topic": self.numbers,
            "partition": "0",
            "offset": "0",
            "timestamp": str(self.at),
            "error": "ValueError",
            **headers,
        }
        async with AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap) as producer:
            await producer.send_and_wait(
                self.letters,
                value.encode(),
                headers=[(f"streamapp-{name}", text.encode()) for name, text in told.items()],
            )

    def build(self) -> Any:
        return build(self.kafka.prefix, self.kafka.bootstrap, str(self._state))

    def run(self, *arguments: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `streamapp dead-letters …` in a process of its own."""
        faults = {} if fault is None else {ENVIRONMENT: fault}
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "streamapp",
                "-A",
                "tests.cli.poisoned",
                "dead-letters",
                *arguments,
            ],
            env={
                **os.environ,
                **faults,
                "STREAMAPP_TEST_PREFIX": self.kafka.prefix,
                "STREAMAPP_TEST_BOOTSTRAP": self.kafka.bootstrap,
                "STREAMAPP_TEST_STATE": str(self._state),
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    async def republish(
        self, chosen: Callable[[KeptLetter], bool] = lambda kept: True, **terms: bool
    ) -> Outcome:
        """Republish in this process."""
        app = self.build()
        async with LedgerReader(app.kafka_options()) as reader:
            return await DeadLetters(app, reader).republish(chosen, Terms(**terms))

    async def published(self) -> list[Any]:
        """What the topic of numbers has beside the four records of the beginning."""
        records = await read_all(self.kafka.bootstrap, self.numbers)
        return [r for r in records if (r.partition, r.offset) not in {(1, n) for n in range(4)}]


@pytest.fixture
async def poisoned(kafka: BrokerUnderTest, tmp_path: Path) -> Poisoned:
    made = Poisoned(kafka, tmp_path / "state")
    await made.prepare()
    return made


async def test_it_lists_what_is_wrong_with_which_record(poisoned: Poisoned) -> None:
    done = poisoned.run("list")
    assert done.returncode == 0, done.stderr
    *lines, total = done.stdout.splitlines()
    assert total == f"4 dead letters in {poisoned.letters}"
    found = [line.split(maxsplit=5) for line in lines]
    assert [(words[3], words[4]) for words in found] == [
        (f"{poisoned.numbers}:1:1", "echo"),
        (f"{poisoned.numbers}:1:2", "-"),
        (f"{poisoned.numbers}:1:3", "echo"),
        (f"{poisoned.numbers}:0:9", "-"),
    ]
    assert found[0][5] == "ValueError: no -1 [2J", (
        "what a terminal takes for a command is taken out"
    )
    assert found[3][5] == "RecordError: too large  (cut)"

    done = poisoned.run("list", "--agent", "echo", "--limit", "1", "--json")
    [letter] = map(json.loads, done.stdout.splitlines())
    assert (letter["topic"], letter["partition"], letter["offset"]) == (poisoned.numbers, 1, 3)
    assert (letter["key"], letter["value"], letter["agent"]) == ("c", "-2", "echo")
    assert letter["headers"] == [["from", "a test"]]
    assert "Traceback" in letter["traceback"]
    assert not letter["republished"]


async def test_it_publishes_the_record_that_it_was_and_each_once(poisoned: Poisoned) -> None:
    named = poisoned.run("list", "--json", "--agent", "echo").stdout.splitlines()
    first = json.loads(named[0])["letter"]

    dry = poisoned.run("republish", "--topic", poisoned.numbers, "--dry-run")
    assert "3 would be published, 1 refused" in dry.stdout, dry.stderr
    assert await poisoned.published() == []

    done = poisoned.run("republish", "--offset", first)
    assert (done.returncode, done.stdout) == (0, "1 published, 0 refused\n"), done.stderr
    [record] = await poisoned.published()
    assert (record.partition, record.key, record.value) == (1, b"b", b"-1")
    assert record.timestamp == poisoned.at
    assert list(record.headers) == [("from", b"a test")]

    done = poisoned.run("republish", "--all")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "2 published, 2 refused"
    assert "1 not published: it was published again already" in done.stdout
    assert "1 not published: its value was cut" in done.stdout
    assert [r.value for r in await poisoned.published()] == [b"-1", b"{", b"-2"]
    assert "published again" in poisoned.run("list").stdout


async def test_again_and_cut_overrule(poisoned: Poisoned) -> None:
    assert len((await poisoned.republish()).published) == 3
    assert len((await poisoned.republish(again=True, cut=True)).published) == 4
    assert len(await poisoned.published()) == 7


async def test_a_letter_that_was_named_and_is_not_published_is_a_failure(
    poisoned: Poisoned,
) -> None:
    outcome = await poisoned.republish()
    [cut] = outcome.refused
    refused = poisoned.run("republish", "--offset", cut, "--offset", "0:99")
    assert f"{cut} is not published: its value was cut" in refused.stdout
    assert refused.returncode == 1
    assert "there is no such dead letter" in refused.stderr
    assert "0:99" in refused.stderr


@pytest.mark.parametrize("moment", ["checkpoint.before-commit", "checkpoint.after-commit"])
async def test_killed_and_repeated_it_has_published_each_once(
    poisoned: Poisoned, moment: str
) -> None:
    killed = poisoned.run("republish", "--all", fault=moment)
    assert killed.returncode == -9, killed.stderr
    outcome = await poisoned.republish()
    assert len(outcome.published) == (3 if moment == "checkpoint.before-commit" else 0)
    assert sorted(r.value for r in await poisoned.published()) == [b"-1", b"-2", b"{"]


async def test_two_at_a_time_publish_each_once(poisoned: Poisoned) -> None:
    found = await asyncio.gather(*(poisoned.republish() for _ in range(3)), return_exceptions=True)
    failed = [each for each in found if isinstance(each, BaseException)]
    assert all(isinstance(each, TaskClosed) for each in failed), failed
    await poisoned.republish()
    assert sorted(r.value for r in await poisoned.published()) == [b"-1", b"-2", b"{"]


async def test_a_topic_that_is_gone_is_not_made_anew(poisoned: Poisoned) -> None:
    await poisoned.put("5", topic=f"{poisoned.kafka.prefix}gone")
    outcome = await poisoned.republish(lambda kept: kept.letter.topic != poisoned.numbers)
    assert outcome.published == []
    assert list(outcome.refused.values()) == [
        f"there is no {poisoned.kafka.prefix}gone[0] any more"
    ]


async def test_what_retention_would_delete_at_once_is_published_with_the_time_of_now(
    poisoned: Poisoned,
) -> None:
    await poisoned.put("5", timestamp="1133671667000")

    def old(kept: KeptLetter) -> bool:
        return kept.letter.timestamp < poisoned.at

    outcome = await poisoned.republish(old)
    assert list(outcome.refused.values()) == [
        f"it is older than what {poisoned.numbers} keeps (--now gives it the time of now)"
    ]
    assert len((await poisoned.republish(old, now=True)).published) == 1
    [record] = await poisoned.published()
    assert record.value == b"5"
    assert record.timestamp > poisoned.at


@pytest.mark.parametrize(
    "arguments",
    [["republish"], ["republish", "--offset", "7"], ["list", "--limit", "0"]],
)
def test_wrongly_called(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamapp", "dead-letters", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Error: " in done.stderr
