"""The day in small: the command runs, counts right, and tells growth from none."""

from __future__ import annotations

import pytest

from bench.day import Sample, growing
from tests.bench.running import run


@pytest.mark.broker
@pytest.mark.slow
def test_a_short_day_counts_every_event() -> None:
    status, figures = run("bench.day", "--records", "40000", "--minutes", "0.2", within=200)
    # Memory is not flat yet within seconds.
    assert status == (1 if figures["grew"] else 0)
    assert set(figures["quarters"]) == {"resident", "files", "disk"}
    assert figures["windows"] > 30_000


def test_what_grows_in_the_second_half_is_named() -> None:
    flat = [Sample(float(n), 100 << 20, 40, 50 << 20) for n in range(40)]
    assert growing(flat) == []
    leaking = [Sample(s.at, s.resident, s.files + int(s.at), s.disk) for s in flat]
    assert growing(leaking) == ["files"]
    swelling = [Sample(s.at, s.resident + int(s.at) * (4 << 20), s.files, s.disk) for s in flat]
    assert growing(swelling) == ["resident"]
