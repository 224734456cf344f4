"""`streamapp ingest dir`: options, messages and exit codes."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from streamapp.cli.root import command_line
from tests.brokers import BrokerUnderTest


def run(*arguments: object) -> Result:
    words = ["ingest", "dir", *map(str, arguments)]
    return CliRunner().invoke(command_line(words), words, prog_name="streamapp")


def test_a_directory_is_published_and_summed_up(kafka: BrokerUnderTest, tmp_path: Path):
    (tmp_path / "a.log").write_bytes(b"one\n\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"three\n")
    topic = kafka.topic("lines")
    arguments = [tmp_path, "-t", topic, "-b", kafka.bootstrap]
    result = run(*arguments, "--pattern", "*.log")
    assert result.exit_code == 0, result.output
    assert f"2 lines of {tmp_path} published to {topic}, 1 new files, 1 empty" in result.stderr
    summary = json.loads(run(*arguments, "--json").stdout)
    assert (summary["files"], summary["lines"]) == (1, 1)


def test_without_a_directory_it_says_so(kafka: BrokerUnderTest, tmp_path: Path):
    result = run(tmp_path / "nothing", "-t", kafka.topic("any"), "-b", kafka.bootstrap)
    assert result.exit_code == 1
    assert "there is no directory" in result.stderr


def test_help_says_what_it_promises():
    result = run("--help")
    assert result.exit_code == 0
    assert "exactly once" in result.output
