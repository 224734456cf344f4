"""`streamapp ingest`: options, messages and exit codes; most of all of `ingest file`."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamapp.cli.ingest_file import _sentence
from streamapp.cli.root import command_line
from streamapp.receivers.file import Summary
from tests.brokers import BrokerUnderTest


def run(*arguments: object) -> Result:
    words = ["ingest", *map(str, arguments)]
    return CliRunner().invoke(command_line(words), words, prog_name="streamapp")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(b"one\n\ntwo\n")
    return path


SOURCES = ("dir", "file", "listen", "replay", "sample", "socket", "tweets")


def test_help_says_what_it_promises():
    result = run("file", "--help")
    assert result.exit_code == 0
    assert "exactly once" in result.output
    assert "Exit codes" in run("--help").output


@pytest.mark.parametrize("source", SOURCES)
def test_all_take_the_same_and_show_how_they_are_called(source: str):
    result = run(source, "--help")
    options = "--topic --bootstrap --name --partitions --session-timeout --json"
    assert [option for option in options.split() if option not in result.output] == []
    assert f"Examples:\n      streamapp ingest {source} " in result.output
    assert source in run("--help").output


def test_a_file_is_published_and_summed_up(kafka: BrokerUnderTest, log: Path):
    result = run("file", log, "-t", kafka.topic("lines"), "-b", kafka.bootstrap)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"2 lines of {log} published to {kafka.topic('lines')}" in result.stderr
    assert "1 empty left out" in result.stderr


def test_the_summary_is_one_json_object(kafka: BrokerUnderTest, log: Path):
    arguments = ["file", log, "-t", kafka.topic("lines"), "-b", kafka.bootstrap, "--json"]
    summary = json.loads(run(*arguments).stdout)
    assert (summary["lines"], summary["empty"], summary["size"]) == (2, 1, 9)
    assert summary["position"]["offset"] == 9
    assert json.loads(run(*arguments).stdout)["resumed_at"] == 9


def test_without_a_broker_it_says_what_to_do(log: Path, unused_tcp_port: int):
    result = run("file", log, "-t", "any", "-b", f"127.0.0.1:{unused_tcp_port}")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: no Kafka broker answers at 127.0.0.1:{unused_tcp_port}. Check the address"
        f" (--bootstrap), or start a broker here: streamapp broker --port {unused_tcp_port}\n"
    )


def test_without_a_file_it_says_so_before_it_asks_a_broker(tmp_path: Path):
    result = run("file", tmp_path / "nothing", "-t", "any")
    assert result.exit_code == 1
    assert "there is no file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing option '--topic'"),
        (["-t", "any", "--rate", "0"], "--rate"),
        (["-t", "any", "--rate", "-3"], "--rate"),
        (["-t", "any", "--partitions", "0"], "--partitions"),
        (["-t", "any", "--batch", "0"], "--batch"),
        (["-t", "any", "--key", "("], "is not a regular expression"),
    ],
)
def test_a_wrong_call_is_a_usage_error(log: Path, arguments: list[str], complaint: str):
    result = run("file", log, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


async def test_a_second_signal_ends_it_at_once(log: Path):
    connected = asyncio.Event()

    async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await ended
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamapp", "ingest", "file", str(log)),
        *("--topic", "any", "--bootstrap", f"127.0.0.1:{port}"),
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.ensure_future(process.wait())
    await connected.wait()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    await ended
    assert process.stderr is not None
    errors = (await process.stderr.read()).decode()
    assert (process.returncode, errors.count("\n")) == (1, 1), errors
    assert "nothing is lost or repeated" in errors
    server.close()


def test_the_sentence_at_the_end_leaves_out_what_did_not_happen():
    summary = Summary("/app.log", "lines", "name", lines=5)
    assert _sentence(summary) == "5 lines of /app.log published to lines"
    summary.resumed_at, summary.oversized, summary.seconds = 1000, 1, 0.5
    assert _sentence(summary) == (
        "5 lines of /app.log published to lines, from byte 1,000 on,"
        " 1 too long and sent to lines-dead-letters, 10 a second"
    )
