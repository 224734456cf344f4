"""`streamapp ingest tweets` and `tweet-rules`: options, messages and exit codes, as processes."""

# ruff: noqa: ASYNC220  (the fake runs in the loop of another thread)

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import BrokerUnderTest
from tests.polling import eventually
from tests.receivers.tweets import RULES, published_ids
from tests.x_api import TOKEN
from tests.x_api.beside import X, serving


@pytest.fixture
def x(tmp_path: Path) -> Iterator[X]:
    with serving(tmp_path) as x:
        yield x


def ingest(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    ours = {name: value for name, value in os.environ.items() if "STREAMAPP_X" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "streamapp", "ingest", *arguments],
        env={**ours, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_help_says_where_the_token_comes_from():
    code, output, _ = ingest("tweets", "--help")
    assert code == 0
    assert "STREAMAPP_X_BEARER_TOKEN" in output
    assert "exactly once" in output


def test_without_a_token_it_says_what_to_do():
    code, _, errors = ingest("tweets")
    assert code == 1
    assert "set STREAMAPP_X_BEARER_TOKEN" in errors
    assert errors.count("\n") == 1


def test_two_kinds_of_rules_are_a_usage_error(tmp_path: Path):
    code, _, errors = ingest("tweets", "--rule", "a", "--rules", str(tmp_path / "rules"))
    assert code == 2
    assert "--rules replaces them" in errors


def test_a_token_that_is_wrong_is_named_by_its_source(kafka: BrokerUnderTest, x: X, tmp_path: Path):
    path = tmp_path / "token"
    path.write_text("wrong-secret")
    code, output, errors = ingest(
        *("tweets", "--topic", kafka.topic("tweets"), "--bootstrap", kafka.bootstrap),
        *("--token-file", str(path), "--rule", "python"),
        environment=x.environment,
    )
    assert code == 1
    assert f"does not accept the bearer token from file {path}" in errors
    assert "wrong-secret" not in output + errors


def test_rules_are_managed(x: X, tmp_path: Path):
    def rules(*arguments: str) -> tuple[int, str, str]:
        return ingest("tweet-rules", *arguments, environment=x.environment)

    assert "there are no rules" in rules("list")[2]
    assert "1 added" in rules("add", "--tag", "py", "python lang:en")[2]
    assert "0 added, 0 deleted, 1 kept" in rules("add", "--tag", "py", "python lang:en")[2]
    (rule,) = json.loads(rules("list", "--json")[1])
    assert (rule["value"], rule["tag"]) == ("python lang:en", "py")
    assert rules("list")[1] == f"{rule['id']}\tpy\tpython lang:en\n"
    path = tmp_path / "rules"
    path.write_text("kafka\nrust\n")
    assert "2 added, 1 deleted, 0 kept" in rules("sync", str(path))[2]
    code, _, errors = rules("delete", rule["id"])
    assert code == 1
    assert "0 of 1 rules deleted" in errors
    code, _, errors = rules("add", "(python")
    assert code == 1
    assert "UnprocessableEntity" in errors


@pytest.mark.timeout(120)
async def test_tweets_are_published_and_summed_up(kafka: BrokerUnderTest, x: X, tmp_path: Path):
    topic = kafka.topic("tweets")
    command = [sys.executable, "-m", "streamapp", "ingest", "tweets", "--json"]
    command += ["--topic", topic, "--bootstrap", kafka.bootstrap]
    for rule in RULES:
        command += ["--rule", rule]
    log = tmp_path / "errors"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, **x.environment},
            stdout=subprocess.PIPE,
            stderr=errors,
        )

    async def all_there() -> bool:
        assert process.poll() is None, log.read_text()
        found = await published_ids(kafka.bootstrap, topic)
        return x.fake.done.is_set() and set(found) == x.fake.searchable()

    try:
        await eventually(all_there)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, log.read_text()
    summary = json.loads(output)
    assert (summary["published"], summary["connects"]) == (60, 1)
    assert "rules: 3 added" in log.read_text()
    assert TOKEN not in log.read_text() + output.decode()
