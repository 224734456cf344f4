"""The benchmark of the receiver of tweets: a wrong topic ends the run, and the limit counts."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import tweets as bench
from tests.bench.running import run


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({b"1": 1}, r"1 of 2 tweets, and 0 records too many"),
        ({b"1": 1, b"2": 2}, r"2 of 2 tweets, and 1 records too many"),
    ],
)
def test_tweets_that_are_missing_or_there_twice_end_the_run(ids: dict[bytes, int], said: str):
    bench.check("bare", Counter({b"1": 1, b"2": 1}), 2)

    with pytest.raises(SystemExit, match=said):
        bench.check("bare", Counter(ids), 2)


def test_ratios_are_taken_within_a_round():
    def figures(cpu: float) -> dict[str, float]:
        return {"cpu_us": cpu, "wall": 1.0, "rss": 2**20}

    rounds = [
        {"bare": figures(bare), "receiver": figures(receiver)}
        for bare, receiver in ((1.0, 2.0), (10.0, 10.0), (20.0, 10.0))
    ]

    assert bench.summary(rounds, 10)["receiver"]["ratio"] == 1.0


@pytest.mark.broker
@pytest.mark.parametrize(("limit", "status"), [("1000", 0), ("0.001", 1)])
def test_a_run_says_whether_the_limit_holds(limit: str, status: int):
    arguments = ("--tweets", "500", "--rounds", "1", "--limit", limit)
    found, result = run("bench.tweets", *arguments)

    assert found == status
    assert result["within_limit"] is (status == 0)
    assert set(result["contenders"]) == {"bare", "receiver"}
