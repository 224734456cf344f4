"""The line of progress: what it says, and how it goes together with other lines."""

import dataclasses
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from streamapp.cli.ingest_ticker import CLEAR_LINE, Ticker
from streamapp.receivers.receiver import State, Status
from tests.brokers import BrokerUnderTest

RUNNING = Status("name", "topic", True, State.RUNNING, 12_000, 1234.5, None, 0, None)


def line_of(status: Status, capsys: pytest.CaptureFixture[str]) -> str:
    ticker = Ticker("app.log", lambda: status, terminal=False)
    ticker.tell()
    return capsys.readouterr().err.rstrip("\n")


def test_it_says_what_there_is_to_say(capsys: pytest.CaptureFixture[str]):
    assert line_of(RUNNING, capsys) == "app.log: 12,000 lines, 1,234 a second"
    slow = dataclasses.replace(RUNNING, rate=0.35, lag=7)
    assert line_of(slow, capsys) == "app.log: 12,000 lines, 0.3 a second, 7 bytes to go"
    mended = dataclasses.replace(RUNNING, restarts=2, state=State.RESTARTING)
    assert line_of(mended, capsys).endswith(", restarted 2 times (restarting)")
    waiting = dataclasses.replace(RUNNING, state=State.WAITING)
    assert line_of(waiting, capsys).endswith(" (waiting)")


def test_each_source_says_it_in_its_words(capsys: pytest.CaptureFixture[str]):
    status = dataclasses.replace(RUNNING, lag=3)
    ticker = Ticker(
        "tweets",
        lambda: status,
        unit="tweets",
        lag="lines waiting",
        more=lambda: "streaming, 2 s behind",
        terminal=False,
    )
    ticker.tell()
    assert capsys.readouterr().err == (
        "tweets: 12,000 tweets, 1,234 a second, 3 lines waiting, streaming, 2 s behind\n"
    )


def test_in_a_log_it_is_silent_without_news(capsys: pytest.CaptureFixture[str]):
    status = RUNNING
    ticker = Ticker("app.log", lambda: status, terminal=False)
    for records in (1, 1, 1, 2):
        status = dataclasses.replace(RUNNING, records=records)
        ticker.tell()
    ticker.end()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_on_a_terminal_it_is_rewritten_and_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "20")
    ticker = Ticker("app.log", lambda: RUNNING, terminal=True)
    ticker.tell()
    ticker.end()
    ticker.end()
    assert capsys.readouterr().err == f"{CLEAR_LINE}app.log: 12,000 lin\n"


def test_a_summary_has_a_line_of_its_own_on_a_terminal(kafka: BrokerUnderTest, tmp_path: Path):
    log = tmp_path / "x.log"
    log.write_bytes(b"line\n" * 30)
    command = [sys.executable, "-m", "streamapp", "ingest", "file", "x.log", "--rate", "20"]
    command += ["--topic", kafka.topic("lines"), "--bootstrap", kafka.bootstrap]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 4096):
            said += data
    except OSError:
        pass  # how Linux says that the other side is closed
    finally:
        os.close(ours)
        process.kill()
    assert process.wait() in (0, -9), said
    *_, progress, summary, end = said.decode().split("\r\n")
    assert "x.log: " in progress.split(CLEAR_LINE)[-1]
    assert summary.startswith("30 lines of")
    assert end == ""
