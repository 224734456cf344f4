"""`streamapp demo` as its user has it: started, interrupted, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streamapp.demo.folder import Folder
from streamapp.errors import DecodeError
from streamapp.logs import decode_log_line
from tests.polling import eventually

pytestmark = pytest.mark.broker

CHECKOUT = Path(__file__).parents[2]
REAL_LOG = CHECKOUT.parent / "shared" / "data" / "Apache_2k.log"
SAMPLE_LINES = 12_000
STEP, SIZE = 10_000, 30_000


class Running:
    """A demo in a process of its own; what it says is read as it comes."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamapp", "demo", "--dir", str(folder), *options],
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    @property
    def worker(self) -> int:
        """The worker's process id, or 0 before it is known."""
        found = re.search(r"Worker: .*, process (\d+)", self.said)
        return int(found[1]) if found else 0

    def has_processed(self, lines: int) -> bool:
        """Whether it says so, or more; raises when it has ended before."""
        counts = [int(n.replace(",", "")) for n in re.findall(r"processed ([\d,]+)", self.said)]
        if max(counts, default=0) < lines and self.process.poll() is not None:
            pytest.fail(f"it ended too early:\n{self.said}")
        return max(counts, default=0) >= lines

    def result(self) -> tuple[int, Any]:
        """Wait for the end; return the exit code and the summary, if there is one."""
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        code = self.process.wait()
        self._reader.join()
        return code, json.loads(output) if output else None


@contextlib.contextmanager
def demo(folder: Path, *options: str, **environment: str) -> Iterator[Running]:
    """A demo; whatever happens, it is gone in the end."""
    running = Running(folder, *options, **environment)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def count(folder: Path, *options: str) -> Any:
    """Run the demo until all is counted, and return its summary."""
    with demo(folder, "--until-done", "--json", *options) as running:
        code, summary = running.result()
        assert code == 0, running.said
        return summary


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


class Counted(NamedTuple):
    errors: int
    windows: dict[int, dict[str, int]]


def brute_force(log: Path) -> Counted:
    """Count the errors of every window, without windows, panes or batches."""
    errors = 0
    windows: dict[int, Counter[str]] = defaultdict(Counter)
    for raw in log.read_bytes().splitlines():
        with contextlib.suppress(DecodeError):
            line = decode_log_line(raw)
            if line.level == "error":
                errors += 1
                for start in range(line.time // STEP * STEP, line.time - SIZE, -STEP):
                    windows[start].update([line.module, "*"])
    return Counted(errors, {start: dict(counts) for start, counts in windows.items()})


def found(summary: Any) -> Counted:
    """What a summary says, in the same form; its windows are in order, and 30 seconds long."""
    windows = summary["windows"]
    assert [window["start"] for window in windows] == sorted(w["start"] for w in windows)
    assert all(window["end"] - window["start"] == SIZE for window in windows)
    return Counted(
        summary["errors"],
        {window["start"]: {**window["by_module"], "*": window["total"]} for window in windows},
    )


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with the demo of the sample, all of it counted, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, count(folder, "--rate", "0")


def test_every_window_of_the_sample_is_what_counting_by_hand_gives(sampled: tuple[Path, Any]):
    folder, summary = sampled
    assert found(summary) == brute_force(folder / "sample.log")
    assert summary["ingested"] == summary["processed"] == SAMPLE_LINES
    assert (summary["late"], summary["dead_letters"], summary["resumed_from"]) == (0, 0, 0)
    assert summary["done"] is True
    assert 0 < summary["batches"] < SAMPLE_LINES


def test_a_start_after_the_end_finds_nothing_new_and_shows_the_windows(sampled: tuple[Path, Any]):
    folder, before = sampled
    with demo(folder, "--until-done", "--json") as running:
        code, summary = running.result()
    assert code == 0
    assert "Nothing new in the log" in running.said
    assert found(summary) == found(before)
    assert summary["resumed_from"] == summary["ingested"] == summary["processed"] == SAMPLE_LINES
    assert summary["batches"] == before["batches"]


def test_on_a_terminal_it_draws_its_view(sampled: tuple[Path, Any]):
    folder, before = sampled
    ours, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamapp", "demo", "--dir", str(folder), "--until-done"],
        cwd=CHECKOUT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"},
        stderr=its,
    )
    os.close(its)
    drawn = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while data := os.read(ours, 65_536):
            drawn += data
    os.close(ours)
    assert process.wait() == 0
    *earlier, last = drawn.decode().split("by module")
    assert "Nothing new in the log" in "".join(earlier)
    assert f"{SAMPLE_LINES:,} lines, {before['errors']:,} errors" in last


@pytest.mark.skipif(not REAL_LOG.exists(), reason=f"the real log is not at {REAL_LOG}")
def test_a_real_log_is_counted_exactly(tmp_path: Path):
    summary = count(tmp_path, "--logs", str(REAL_LOG))
    assert found(summary) == brute_force(REAL_LOG)
    assert (summary["errors"], summary["processed"], summary["late"]) == (595, 2_000, 0)


async def test_killed_in_the_middle_it_goes_on_and_counts_every_line_once(tmp_path: Path):
    for lines in (1, 6_000):
        with demo(tmp_path, "--rate", "2000") as running:
            await eventually(lambda: running.has_processed(lines))  # noqa: B023
            running.process.kill()
            await eventually(lambda: is_gone(running.worker))
    summary = count(tmp_path, "--rate", "0")
    assert 6_000 <= summary["resumed_from"] <= SAMPLE_LINES
    assert found(summary) == brute_force(tmp_path / "sample.log")
    assert (summary["processed"], summary["late"]) == (SAMPLE_LINES, 0)


async def test_a_worker_that_dies_is_told_of_and_the_next_one_goes_on(tmp_path: Path):
    with demo(tmp_path, "--rate", "2000") as running:
        await eventually(lambda: running.has_processed(1))
        os.kill(running.worker, signal.SIGKILL)
        code, _ = running.result()
    assert code == 1
    assert "the worker has died (signal 9)" in running.said
    assert "[INFO]" in running.said, "the end of its log"
    summary = count(tmp_path, "--rate", "0")
    assert found(summary) == brute_force(tmp_path / "sample.log")


async def test_an_interrupt_ends_it_with_0_and_leaves_nothing_running(tmp_path: Path):
    with demo(tmp_path, "--json") as running:
        await eventually(lambda: running.has_processed(1))
        running.process.send_signal(signal.SIGINT)
        code, summary = running.result()
    assert code == 0, running.said
    assert is_gone(running.worker)
    assert 0 < summary["processed"] <= summary["ingested"] < SAMPLE_LINES
    assert summary["done"] is False


def test_a_line_that_cannot_be_read_is_set_aside_and_the_rest_is_counted(tmp_path: Path):
    log = tmp_path / "broken.log"
    log.write_bytes(
        b"[Sun Dec 04 04:47:44 2005] [error] mod_jk child workerEnv in error state 6\r\n"
        b"\xff\xfe no line of a log\n"
        b"\n"
        b"[Sun Dec 04 04:47:45 2005] [notice] workerEnv.init() ok\r\n"
        b"[Sun Dec 04 04:48:01 2005] [error] [client 10.0.0.1] Directory index forbidden"
    )
    summary = count(tmp_path / "demo", "--logs", str(log))
    assert found(summary) == brute_force(log)
    assert summary["errors"] == 2
    assert summary["dead_letters"] == 1
    assert summary["ingested"] == summary["processed"] == 4


def test_the_folder_of_one_log_is_not_used_for_another_unless_begun_anew(tmp_path: Path):
    folder, log = Folder(tmp_path / "demo"), tmp_path / "some.log"
    log.write_text("[Sun Dec 04 04:47:44 2005] [error] mod_jk child init 1 -2\n")
    with folder.claim("sample.log"):
        folder.broker.mkdir()
    with demo(folder.path, "--logs", str(log)) as running:
        code, _ = running.result()
    assert code == 1
    assert "holds the demo of sample.log: begin anew with --fresh" in running.said
    assert count(folder.path, "--logs", str(log), "--fresh")["errors"] == 1
