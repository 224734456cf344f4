"""The generated log: repeatable, readable, and eventful enough for a chart."""

from collections import Counter
from datetime import UTC, datetime
from itertools import islice, pairwise

import pytest

from streamapp.logs import LogLine, decode_log_line
from streamapp.sample_logs import MAX_STEP_BACK, START, generate


@pytest.fixture(scope="module")
def log() -> list[LogLine]:
    return [decode_log_line(line) for line in generate(20_000, seed=7)]


def test_the_same_seed_gives_the_same_bytes():
    assert list(generate(2_000, seed=3)) == list(generate(2_000, seed=3))


def test_another_seed_gives_another_log():
    assert list(generate(100, seed=3)) != list(generate(100, seed=4))


def test_a_longer_log_continues_a_shorter_one():
    assert list(islice(generate(5_000, seed=3), 1_000)) == list(generate(1_000, seed=3))


def test_it_has_as_many_lines_as_asked_for():
    assert len(list(generate(123))) == 123
    assert list(generate(0)) == []


def test_it_starts_where_it_is_told():
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    (line,) = generate(1, start=noon)
    assert line.startswith(b"[Fri Jan 02 12:00:0")


def test_it_covers_hours_or_minutes_of_event_time_by_rate(log: list[LogLine]):
    minutes = (log[-1].time - log[0].time) / 60_000
    assert 20 < minutes < 120
    (*_, last) = (decode_log_line(line) for line in generate(20_000, seed=7, rate=0.5))
    assert last.time - log[0].time > 4 * (log[-1].time - log[0].time)


def test_time_steps_back_now_and_then_but_never_far(log: list[LogLine]):
    latest, steps, furthest = 0, 0, 0
    for before, line in pairwise(log):
        latest = max(latest, before.time)
        steps += line.time < before.time
        furthest = max(furthest, latest - line.time)
    assert steps > 100
    assert 2_000 <= furthest <= MAX_STEP_BACK.total_seconds() * 1000
    assert min(line.time for line in log) >= int(START.timestamp() * 1000)


def test_errors_come_in_bursts(log: list[LogLine]):
    a_half_minute = Counter(line.time // 30_000 for line in log if line.level == "error")
    counts = sorted(a_half_minute.values())
    assert counts[-1] > 10 * counts[len(counts) // 2]


def test_several_modules_and_levels_appear(log: list[LogLine]):
    assert {"mod_jk", "jk2_init", "client", "mod_ssl", "mod_proxy"} <= {
        line.module for line in log if line.level == "error"
    }
    assert {"error", "notice", "warn", "info", "crit"} <= {line.level for line in log}


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_rate_that_is_not_positive_is_refused(rate: float):
    with pytest.raises(ValueError, match="must be positive"):
        generate(1, rate=rate)


def test_a_start_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="needs a zone"):
        generate(1, start=datetime(2026, 1, 2))  # noqa: DTZ001
