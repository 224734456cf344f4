"""Runs a benchmark as its user does, and ends all of it: it starts brokers and workers of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

__all__ = ["run"]


def run(module: str, *arguments: str, within: float = 120.0) -> tuple[int, Any]:
    """Return the status of `python -m module … --json`, and what it has printed.

    Raises:
        subprocess.TimeoutExpired: it takes longer; nothing of it runs on.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=within)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert output, errors
    return process.returncode, json.loads(output)
