"""`streamapp demo --tweets` as its user has it: killed, started again, and right to the tweet."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from streamapp.demo.samples import PLANTED, TWEETS
from streamapp.sample_tweets import START
from tests.agents.test_trends import ByHand
from tests.cli.test_demo import CHECKOUT, demo
from tests.polling import eventually

STEP, SIZE = 60_000, 300_000


@pytest.mark.broker
@pytest.mark.timeout(240)
async def test_killed_in_the_middle_it_goes_on_and_ranks_as_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with demo(folder, "--tweets", "--rate", "4000") as running:
        await eventually(lambda: running.has_processed(8_000))
        running.process.kill()
        running.process.wait()
    with demo(folder, "--tweets", "--rate", "0", "--until-done", "--json") as running:
        code, summary = running.result()
        assert code == 0, running.said

    assert summary["ingested"] == summary["processed"] == TWEETS
    assert (summary["late"], summary["dead_letters"], summary["done"]) == (0, 0, True)
    assert 0 < summary["resumed_from"] < TWEETS
    sample = folder / "tweets.jsonl"
    by_hand = ByHand(json.loads(line) for line in sample.read_bytes().splitlines())
    over = {end: n for (scope, end), n in by_hand.tweets.items() if scope == "*"}
    windows = {window["end"]: window for window in summary["windows"]}
    last = max(windows)
    assert last >= summary["watermark"] // STEP * STEP
    assert windows.keys() == {end for end in over if end <= last}
    for end, window in windows.items():
        assert (window["start"], window["tweets"]) == (end - SIZE, over[end])
        counts = by_hand.counts["*", end]
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        assert [(trend["tag"], trend["count"]) for trend in window["top"]] == ordered[:10]
    begin = round((START + PLANTED.begin).timestamp() * 1000)
    first = min(
        e for e, w in windows.items() if w["rising"] and w["rising"][0]["tag"] == PLANTED.tag
    )
    assert timedelta(0) < timedelta(milliseconds=first - begin) <= timedelta(milliseconds=SIZE)


def test_it_is_of_tweets_or_of_a_log() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamapp", "demo", "--tweets", "--logs", "README.md"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "the demo is of one of them" in done.stderr
