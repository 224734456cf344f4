"""`streamapp ingest replay`: options, messages and exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamapp.cli.root import command_line
from tests.brokers import BrokerUnderTest


def run(*arguments: object) -> Result:
    words = ["ingest", "replay", *map(str, arguments)]
    return CliRunner().invoke(command_line(words), words, prog_name="streamapp")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"time":1}\n{"time":2}\n')
    return path


@pytest.mark.parametrize("pace", [["--speed", "100"], ["--rate", "1000"]])
def test_a_file_is_replayed_and_summed_up(kafka: BrokerUnderTest, recorded: Path, pace: list[str]):
    topic = kafka.topic("lines")
    arguments = [recorded, "-t", topic, "-b", kafka.bootstrap, *pace]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert f"2 lines of {recorded} replayed to {topic}" in result.stderr
    again = json.loads(run(*arguments, "--json").stdout)
    assert (again["lines"], again["resumed_at"]) == (0, 22)


def test_without_a_file_it_says_so(kafka: BrokerUnderTest, tmp_path: Path):
    result = run(tmp_path / "nothing", "-t", kafka.topic("any"), "-b", kafka.bootstrap)
    assert result.exit_code == 1
    assert "there is no file" in result.stderr


@pytest.mark.parametrize("option", ["--speed", "--rate"])
def test_a_pace_that_makes_no_sense_is_a_usage_error(recorded: Path, option: str):
    result = run(recorded, "-t", "any", option, "0")
    assert result.exit_code == 2
    assert option in result.stderr
