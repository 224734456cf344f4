"""The filtered stream fails in every way it can: each tweet is on the topic once all the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamapp.broker import Broker
from streamapp.receivers.tweets import TweetReceiver, XApiError
from streamapp.sample_tweets import generate
from tests.receivers.tweets import RULES, api_of, fast, published_ids, real_time_for_kafka, token
from tests.x_api import FakeX, Fault, LoopClock, scatter

TWEETS = 5_000
FAULTS = 50

pytestmark = pytest.mark.broker


@pytest.fixture(autouse=True)
def patience_with_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    real_time_for_kafka(monkeypatch)


class Run:
    """What came of it: the ids on the topic, the fake, and the errors that receivers ended with."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.summary: Counter[str] = Counter()
        self.errors: list[XApiError] = []
        self.fake: FakeX

    def assert_exactly_once(self) -> None:
        expected = self.fake.searchable()
        assert sorted(expected - set(self.ids)) == []
        assert sorted(set(self.ids) - expected) == []
        assert max(self.ids.values()) == 1


async def receive(
    directory: Path,
    tweets: int,
    faults: list[Fault],
    *,
    rules: Sequence[str] = RULES,
    rate: float = 2.0,
    **options: Any,
) -> Run:
    """Receive all tweets; a receiver that ends with an error is started again, as by an operator."""
    start = datetime.now(UTC) - timedelta(hours=3)
    run = Run()
    clock = LoopClock(start.timestamp() - 30)
    written = list(generate(tweets, seed=len(faults) + tweets, start=start, rate=rate))
    async with Broker(port=0) as broker, FakeX(written, clock, faults, rules=rules) as fake:
        run.fake = fake
        published = 0
        while published < tweets and not fake.over():
            receiver = TweetReceiver(
                "tweets",
                token(),
                api=api_of(fake, directory),
                bootstrap=broker.bootstrap,
                clock=clock,
                **options,
            )
            task = asyncio.create_task(receiver.run())
            while (
                not (task.done() or fake.over()) and published + receiver.summary.published < tweets
            ):
                await asyncio.wait({task}, timeout=1.0)
            receiver.stop()
            try:
                await task
            except XApiError as error:
                run.errors.append(error)
            published += receiver.summary.published
            for name in ("searched", "duplicates", "dead_letters", "notices", "connects"):
                run.summary[name] += getattr(receiver.summary, name)
            run.summary.update(receiver.summary.ends)
        run.ids = await published_ids(broker.bootstrap, "tweets")
    return run


@pytest.mark.parametrize(
    "seed",
    [
        *(0, 1),
        *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 20)),
    ],
)
@pytest.mark.timeout(300)
def test_whatever_happens_each_tweet_is_there_once(seed: int, tmp_path: Path):
    faults = scatter(seed, TWEETS, FAULTS)
    run = fast(lambda: receive(tmp_path, TWEETS, faults))
    run.assert_exactly_once()
    assert run.fake.most_connects() < 50
    assert len(run.errors) == 2, "401 and 403 are told, and nothing else ends a receiver"
    assert run.fake.struck.keys() | {"401", "403"} >= {fault.kind for fault in faults}


def test_without_faults_search_adds_nothing_but_the_beginning(tmp_path: Path):
    run = fast(lambda: receive(tmp_path, 300, []))
    run.assert_exactly_once()
    assert run.summary["connects"] == 1
    assert run.summary["searched"] <= 5


def test_what_was_found_once_is_not_searched_for_again_while_no_connection_holds(tmp_path: Path):
    faults = [Fault(at, "reset") for at in range(20, 1_200, 20)]
    run = fast(lambda: receive(tmp_path, 1_200, faults, rules=["-from_nobody"], rate=1.0))
    run.assert_exactly_once()
    # Each search is of the last three minutes, two pages; of all of them, they would be
    # twelve, and the quota spent.
    assert len(run.fake.searches) < 300
