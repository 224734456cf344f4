"""The file that tells whether a process does its work."""

# ruff: noqa: ASYNC240  (a small file on a local disk)

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from streamapp import pulse
from streamapp.errors import ConfigurationError
from streamapp.pulse import VARIABLE, Unhealthy, beating, examine
from tests.polling import eventually


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pulse, "EVERY", 0.01)
    path = tmp_path / "pulse"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def is_well(file: Path, later: float = 0.0) -> bool:
    try:
        examine(file, 1.0, time.time() + later)
    except Unhealthy:
        return False
    return True


async def test_while_nothing_is_wrong_it_is_well_and_afterwards_it_is_gone(file: Path) -> None:
    async with beating(lambda: None):
        await eventually(lambda: is_well(file))
        assert not is_well(file, later=2.0), "old is as good as nothing"
    with pytest.raises(Unhealthy, match="the process has ended or is starting"):
        examine(file, 1.0, time.time())


async def test_what_is_wrong_is_told_when_it_has_lasted(file: Path) -> None:
    wrong: list[str] = []
    async with beating(lambda: wrong[0] if wrong else None):
        await eventually(lambda: is_well(file))
        wrong.append("task a/0 is stuck")
        await eventually(lambda: "stuck" in file.read_text())
        assert is_well(file), "it was well a moment ago"
        with pytest.raises(Unhealthy, match=r"not well for \d+ s: task a/0 is stuck"):
            examine(file, 1.0, time.time() + 10.0)
        wrong.clear()
        await eventually(lambda: "stuck" not in file.read_text())


async def test_a_loop_that_hangs_grows_old(file: Path) -> None:
    async with beating(lambda: None):
        await eventually(lambda: is_well(file))
        before = file.read_bytes()
        time.sleep(0.1)  # noqa: ASYNC251
        assert file.read_bytes() == before
        with pytest.raises(Unhealthy, match="no sign of life"):
            examine(file, 1.0, time.time() + 10.0)


async def test_what_never_was_well_says_since_when(file: Path) -> None:
    async with beating(lambda: "receiver r is starting"):
        await asyncio.sleep(0)
        with pytest.raises(Unhealthy, match="not well since its start"):
            examine(file, 1.0, time.time())


async def test_a_file_that_cannot_be_written_is_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="STREAMAPP_PULSE: cannot write"):
        async with beating(lambda: None, file / "nowhere" / "pulse"):
            pass


async def test_without_the_variable_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    async with beating(lambda: None):
        await asyncio.sleep(0.02)
    assert not [*tmp_path.iterdir()]


def test_what_is_no_pulse_is_not_well(file: Path) -> None:
    file.write_text("something else")
    with pytest.raises(Unhealthy, match="cannot be read"):
        examine(file, 1.0, time.time())
