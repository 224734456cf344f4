"""Chaos in short, for every run of the longer tests; `make chaos` has more of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.drama import run
from tests.chaos.schedule import Kind, schedule

#: Seconds after which no more faults begin; the comparing comes on top.
SECONDS = 50.0


def test_a_schedule_is_the_seeds_alone() -> None:
    drawn = schedule(7, 400, brokers=3, session=3.0)
    assert drawn == schedule(7, 400, brokers=3, session=3.0)
    assert drawn != schedule(8, 400, brokers=3, session=3.0)
    assert {fault.kind for fault in drawn} == set(Kind)


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.broker
@pytest.mark.timeout(400)
@pytest.mark.parametrize("brokers", [1, 3])
@pytest.mark.usefixtures("apache_installed")
async def test_workers_survive_whatever_befalls_them(brokers: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("STREAMAPP_SEED") or random.randrange(10**6))
    print(f"again: python -m tests.chaos --seed {seed} --faults 100 --brokers {brokers}")
    report = await run(tmp_path, seed, 100, brokers=brokers, most_seconds=SECONDS)
    print(report)
    assert report.faults >= 3
