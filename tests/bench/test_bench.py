"""The benchmark: the same events for the same seed, wrong results refused, and the limit that counts."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import msgspec
import pytest

from bench import __main__ as bench
from bench.workload import Totals, events
from tests.bench.running import run


def test_the_same_seed_gives_the_same_events() -> None:
    assert list(events(500, seed=1)) == list(events(500, seed=1))
    assert list(events(500, seed=1)) != list(events(500, seed=2))


def test_events_are_of_about_200_bytes_in_order_of_time_and_some_users_make_many() -> None:
    made = list(events(5_000, seed=1))
    sizes = [len(msgspec.json.encode(event)) for _, event in made]
    users = Counter(event.user for _, event in made)

    assert 170 < sum(sizes) / len(sizes) < 230
    assert [time for time, _ in made] == sorted(time for time, _ in made)
    assert users.most_common(1)[0][1] > 50 * users.total() / 10_000


def test_a_contender_that_counts_wrong_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"cpu": 1.0, "wall": 1.0, "rss": 1.0, "counts": [[0, "ann", 2]]}
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **options: subprocess.CompletedProcess(command, 0, json.dumps(answer)),
    )

    assert bench.measure("bare", "nowhere", Totals({(0, "ann"): 2}), "n")["cpu_us"] == 5e5
    with pytest.raises(SystemExit, match=r"counted 2 of 3 events and is wrong in 1 of 1 windows"):
        bench.measure("bare", "nowhere", Totals({(0, "ann"): 3}), "n")


def test_ratios_are_taken_within_a_round() -> None:
    def figures(cpu: float) -> dict[str, float]:
        return {"cpu_us": cpu, "wall": 1.0, "rss": 2**20}

    rounds = [
        {"bare": figures(bare), "batch": figures(batch)}
        for bare, batch in ((1.0, 2.0), (10.0, 10.0), (20.0, 10.0))
    ]

    assert bench.summary(rounds, 10)["batch"]["ratio"] == 1.0


@pytest.mark.broker
@pytest.mark.parametrize(("limit", "status"), [("1000", 0), ("0.001", 1)])
def test_a_run_says_whether_the_limit_holds(limit: str, status: int) -> None:
    arguments = ("--records", "500", "--rounds", "1", "--form", "batch", "--limit", limit)
    found, result = run("bench", *arguments)

    assert found == status
    assert result["within_limit"] is (status == 0)
    assert set(result["contenders"]) == {"bare", "batch"}
