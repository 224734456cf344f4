"""The benchmarks of recovery: what they measure is checked, and they say whether the limit holds."""

from __future__ import annotations

from typing import Any

import pytest

from bench import restore
from tests.bench.running import run


def test_ratios_are_taken_within_a_round() -> None:
    def figures(cpu: float) -> dict[str, Any]:
        return {"cpu": cpu, "wall": 2 * cpu}

    rounds = [
        {"bare": figures(bare), "restore": figures(restored)}
        for bare, restored in ((1.0, 2.0), (10.0, 10.0), (20.0, 10.0))
    ]

    found = restore.summary(rounds, 10)["restore"]
    assert (found["cpu_ratio"], found["wall_ratio"]) == (1.0, 1.0)


@pytest.mark.broker
@pytest.mark.parametrize(("limit", "status"), [("1000", 0), ("0.001", 1)])
def test_a_restore_is_compared_with_a_bare_loop_over_the_same_changelog(
    limit: str, status: int
) -> None:
    arguments = ("--records", "3000", "--keys", "1000", "--limit", limit)
    found, result = run("bench.restore", "--rounds", "1", *arguments)
    assert found == status
    assert result["within_limit"] is (status == 0)
    assert set(result["contenders"]) == {"bare", "restore"}


@pytest.mark.broker
@pytest.mark.parametrize(("limit", "status"), [("1000", 0), ("0.001", 1)])
def test_a_small_and_a_large_store_are_reopened_in_turn(limit: str, status: int) -> None:
    found, result = run(
        "bench.reopen", "--rounds", "1", "--small", "50", "--large", "500", "--limit", limit
    )
    assert found == status
    assert result["within_limit"] is (status == 0)
    assert set(result["milliseconds"]) == {"join", "assignment"}
    assert all(set(found) == {"50", "500"} for found in result["milliseconds"].values())
