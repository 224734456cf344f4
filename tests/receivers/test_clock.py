"""Pacing: so many a second, and no rush after a delay."""

import pytest

from streamapp.receivers.clock import Pace
from tests.receivers.clock import ManualClock


async def test_a_flow_is_kept_at_its_rate():
    clock = ManualClock(now=0.0)
    pace = Pace(100.0, clock)
    for _ in range(50):
        await clock.sleep(pace.delay(20))
    assert clock.now == pytest.approx(10.0)


async def test_without_a_rate_nothing_waits():
    clock = ManualClock()
    assert Pace(None, clock).delay(1_000_000) == 0.0


async def test_a_short_delay_is_made_up_for():
    clock = ManualClock(now=0.0)
    pace = Pace(10.0, clock)
    clock.now = 0.5
    assert pace.delay(5) == 0.0
    assert pace.delay(5) == pytest.approx(0.5)


async def test_a_long_delay_is_not():
    clock = ManualClock(now=0.0)
    pace = Pace(10.0, clock)
    clock.now = 3600.0
    assert pace.delay(10) == 0.0
    assert pace.delay(10) == pytest.approx(1.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_not_positive_is_refused(rate: float):
    with pytest.raises(ValueError, match="must be positive"):
        Pace(rate, ManualClock())
