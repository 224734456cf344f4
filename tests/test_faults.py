"""Fault points: silent until armed, then exactly once, at exactly the named pass."""

import os
import signal
import subprocess
import sys

import pytest

from streamapp.faults import ENVIRONMENT, fault_point, inject

PASS_THREE_TIMES = """
from streamapp.faults import fault_point
for number in range(1, 4):
    fault_point("test.point")
    print(number, flush=True)
"""


def run_armed(setting: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASS_THREE_TIMES],
        env={**os.environ, ENVIRONMENT: setting},
        capture_output=True,
        text=True,
        check=False,
    )


def crash() -> None:
    raise RuntimeError("injected")


def test_an_unarmed_point_does_nothing():
    fault_point("test.point")


def test_an_injected_action_raises_at_the_nth_pass_only():
    with inject("test.point", crash, nth=2):
        fault_point("test.point")
        with pytest.raises(RuntimeError, match="injected"):
            fault_point("test.point")
        fault_point("test.point")


def test_other_points_are_not_touched():
    with inject("test.point", crash):
        fault_point("test.another")


def test_a_point_is_disarmed_when_the_block_ends():
    with inject("test.point", crash):
        pass
    fault_point("test.point")


def test_two_faults_at_one_point_count_apart():
    passes: list[str] = []
    with (
        inject("test.point", lambda: passes.append("first")),
        inject("test.point", lambda: passes.append("second"), nth=2),
    ):
        fault_point("test.point")
        fault_point("test.point")
    assert passes == ["first", "second"]


def test_passes_are_counted_from_one():
    with pytest.raises(ValueError, match="from 1"), inject("test.point", crash, nth=0):
        pass


def test_the_environment_kills_the_process_at_the_nth_pass():
    process = run_armed("test.point:3")
    assert process.returncode == -signal.SIGKILL
    assert process.stdout.split() == ["1", "2"]


def test_the_environment_kills_at_the_first_pass_without_a_number():
    process = run_armed("test.point")
    assert process.returncode == -signal.SIGKILL
    assert process.stdout == ""


def test_the_environment_can_stop_the_process_until_it_is_continued():
    process = subprocess.Popen(
        [sys.executable, "-c", PASS_THREE_TIMES],
        env={**os.environ, ENVIRONMENT: "test.point:2:stop"},
        stdout=subprocess.PIPE,
        text=True,
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate()
    assert (process.returncode, output.split()) == (0, ["1", "2", "3"])


def test_the_environment_arms_only_the_named_point():
    assert run_armed("test.another").stdout.split() == ["1", "2", "3"]


def test_a_malformed_setting_is_refused_at_import():
    process = run_armed("test.point:soon")
    assert process.returncode == 1
    assert "expected NAME, NAME:NTH" in process.stderr
