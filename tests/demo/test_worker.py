"""The demo's worker process: where its agents come from, and that it does not outlive the demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamapp.demo import worker
from streamapp.demo.errors import DemoError
from streamapp.demo.folder import Folder


async def test_without_the_agents_it_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "find_spec", lambda name: None)
    with pytest.raises(DemoError, match="make demo"):
        await worker.Worker("127.0.0.1:1", Folder(tmp_path)).start()


def test_a_process_on_the_leash_ends_when_the_pipe_closes():
    leashed = subprocess.Popen(
        [sys.executable, "-m", "streamapp.demo.leash", "broker", "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert leashed.stdout is not None
    assert leashed.stdin is not None
    assert leashed.stdout.readline().startswith("listening on")
    leashed.stdin.close()
    assert leashed.wait() == 1
