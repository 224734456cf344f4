"""`streamapp demo --tweets` as its user has it: killed, started again, and right to the tweet."""

from __future__ import annotations

import json
import os
import signal
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
from tests.x_api.beside import serving

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


@pytest.mark.broker
@pytest.mark.timeout(400)
async def test_live_it_goes_on_with_the_stream_where_it_was_killed(tmp_path: Path) -> None:
    """What is written while nobody listens is found by search, and nothing is taken twice."""
    folder, count = tmp_path / "demo", 480
    options = ["--tweets", "--live", "--rule", "-from_nobody"]
    # So many that some are written after the second connect: search has caught up once it shows them.
    with serving(tmp_path, count=count, rate=12.0) as x:
        with demo(folder, *options, **x.environment) as running:
            await eventually(lambda: running.has_processed(20))
            running.process.kill()
            running.process.wait()
        with demo(folder, *options, "--json", **x.environment) as running:
            await eventually(lambda: running.has_processed(count))
            # Without them, on a busy machine, it is waited for, for two minutes.
            await eventually(lambda: "Live, streaming: -from_nobody" in running.said, within=180)
            assert x.fake.done.is_set()
            assert running.process.poll() is None, "a stream has no end"
            running.process.send_signal(signal.SIGINT)
            code, summary = running.result()
    assert code == 0, running.said
    assert (summary["ingested"], summary["processed"]) == (count, count)
    assert 20 <= summary["resumed_from"] < count
    assert (summary["source"], summary["done"]) == ("X's filtered stream", False)

    for path in folder.rglob("*.log"):
        assert x.environment["STREAMAPP_X_BEARER_TOKEN"] not in path.read_text(errors="replace")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--tweets", "--logs", "README.md"], 2, "the demo is of one of them"),
        (["--live"], 2, "--live goes with --tweets"),
        (["--tweets", "--rule", "python"], 2, "--rule goes with --live"),
        (["--tweets", "--live", "--rate", "5"], 2, "--live has no --rate"),
        (["--tweets", "--live", "--until-done"], 2, "is never done"),
        (["--tweets", "--live"], 1, "set STREAMAPP_X_BEARER_TOKEN to that of your app"),
    ],
)
def test_what_does_not_go_together_is_told_at_once(
    options: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamapp", "demo", "--dir", str(tmp_path / "demo"), *options],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if "STREAMAPP_X" not in name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert not (tmp_path / "demo").exists()
