"""`streamapp ingest socket` and `listen`: options, messages and exit codes."""

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamapp.cli.root import command_line
from streamapp.receivers.live import _LogWriter
from tests.brokers import BrokerUnderTest


def run(*arguments: object) -> Result:
    words = ["ingest", *map(str, arguments)]
    return CliRunner().invoke(command_line(words), words, prog_name="streamapp")


class _Talk(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"one\n\ntwo\n")


@pytest.fixture
def talking() -> Iterator[str]:
    """The address of a server that says two lines to everybody."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Talk) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", ["socket", "listen"])
def test_help_says_what_may_be_lost(command: str):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Unreliable" in result.output
    assert command in run("--help").output


def test_a_socket_is_published_and_summed_up(kafka: BrokerUnderTest, talking: str):
    topic = kafka.topic("lines")
    result = run("socket", talking, "-t", topic, "-b", kafka.bootstrap, "--once")
    assert result.exit_code == 0, result.output
    assert f"{talking} is an unreliable source: a crash loses" in result.stderr
    assert f"2 lines of {talking} published to {topic}, from 1 connections" in result.stderr
    assert result.stdout == ""


def test_the_summary_is_one_json_object(kafka: BrokerUnderTest, talking: str):
    topic = kafka.topic("lines")
    result = run("socket", talking, "-t", topic, "-b", kafka.bootstrap, "--once", "--json")
    summary = json.loads(result.stdout)
    assert (summary["lines"], summary["connections"]) == (2, 1)


def test_the_bound_of_the_log_is_given_in_mebibytes(
    kafka: BrokerUnderTest, talking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bounds = []
    room = _LogWriter.room

    async def spied(self: _LogWriter, most: int) -> None:
        bounds.append(most)
        await room(self, most)

    monkeypatch.setattr(_LogWriter, "room", spied)
    arguments = ["socket", talking, "-t", kafka.topic("lines"), "-b", kafka.bootstrap, "--once"]
    result = run(*arguments, "--wal", tmp_path, "--wal-limit", 3)
    assert result.exit_code == 0, result.output
    assert bounds == [3 << 20]


def test_without_a_broker_it_says_what_to_do(unused_tcp_port: int):
    result = run("listen", 0, "-t", "any", "-b", f"127.0.0.1:{unused_tcp_port}")
    assert result.exit_code == 1
    assert "start a broker here: streamapp broker" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["socket", "here", "-t", "any"], "is not HOST:PORT"),
        (["socket", "here:99999", "-t", "any"], "is not HOST:PORT"),
        (["listen", "70000", "-t", "any"], "PORT"),
        (["listen", "7000"], "Missing option '--topic'"),
        (["listen", "7000", "-t", "any", "--wal-limit", "0"], "--wal-limit"),
    ],
)
def test_a_wrong_call_is_a_usage_error(arguments: list[str], complaint: str):
    result = run(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
