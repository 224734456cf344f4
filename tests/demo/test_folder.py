"""Whose a demo's directory is, and what is removed of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamapp.demo.errors import DemoError
from streamapp.demo.folder import Folder
from streamapp.demo.jobs import LogJob
from streamapp.demo.samples import LOG_LINES


def test_one_demo_at_a_time(tmp_path: Path):
    with Folder(tmp_path).claim("sample.log"):
        with (
            pytest.raises(DemoError, match="a demo is running"),
            Folder(tmp_path).claim("sample.log"),
        ):
            pass
        with pytest.raises(DemoError, match="stop it first"):
            Folder(tmp_path).clear()
    with Folder(tmp_path).claim("sample.log"):
        pass


def test_it_stays_the_demo_of_one_log_until_it_is_cleared(tmp_path: Path):
    folder = Folder(tmp_path)
    with folder.claim("sample.log"):
        folder.broker.mkdir()
    with pytest.raises(DemoError, match="--fresh"), folder.claim("other.log"):
        pass
    folder.clear()
    with folder.claim("other.log"):
        pass


def test_clearing_removes_what_the_demo_made_and_nothing_else(tmp_path: Path):
    folder = Folder(tmp_path)
    (tmp_path / "mine.log").write_text("mine")
    with folder.claim("sample.log"):
        LogJob(folder, None, None).prepare()
        for directory in (folder.broker, folder.state, folder.faust):
            (directory / "deep").mkdir(parents=True)
    folder.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.lock", "mine.log"]


def test_a_directory_without_a_demo_is_left_alone(tmp_path: Path):
    (tmp_path / "broker").mkdir()
    Folder(tmp_path).clear()
    assert (tmp_path / "broker").exists()


def test_a_sample_is_written_once(tmp_path: Path):
    job = LogJob(Folder(tmp_path), None, None)
    assert job.prepare()
    assert len(job.path.read_bytes().splitlines()) == LOG_LINES
    assert not job.prepare()
