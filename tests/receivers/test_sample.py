"""Generated tweets and log lines, one by one as they are due, and on where it was."""

import asyncio
import time
from itertools import islice

import pytest

from streamapp.logs import decode_log_line
from streamapp.receivers import sample
from streamapp.receivers.sample import Kind, SamplePosition, SampleReceiver, items
from streamapp.sample_tweets import START
from streamapp.tweets import decode_tweet
from tests.brokers import BrokerUnderTest
from tests.receivers.clock import ManualClock
from tests.receivers.topics import read_topic

RATE = 20.0
PAUSE = 3600.0


class Moment(ManualClock):
    """A clock that stops a receiver at a moment."""

    receiver: SampleReceiver
    end: float

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        if self.now >= self.end:
            self.receiver.stop()


async def published(
    kafka: BrokerUnderTest, topic: str, kind: Kind, clock: Moment, seconds: float
) -> int:
    """Let a receiver live for some time; how many items it has published."""
    clock.end = clock.now + seconds
    clock.receiver = SampleReceiver(
        kind, topic, rate=RATE, bootstrap=kafka.bootstrap, partitions=1, clock=clock
    )
    summary = await clock.receiver.run()
    return summary.records


async def found(kafka: BrokerUnderTest, topic: str) -> list[bytes]:
    [records] = (await read_topic(kafka.bootstrap, topic)).values()
    return [record.value for record in records]


def texts(values: list[bytes]) -> list[str]:
    """What is written, whenever it is: a retweet names no time."""
    return [decode_tweet(value).text for value in values]


def rounds(kind: Kind, *seeds: int) -> list[bytes]:
    return [item.value for seed in seeds for item in items(kind, seed, START, RATE)]


async def test_started_again_it_goes_on_with_the_next_one(
    kafka: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "ROUND", 200)
    topic, clock = kafka.topic("tweets"), Moment(time.time() - PAUSE)
    first = await published(kafka, topic, Kind.TWEETS, clock, 6.0)
    clock.now += PAUSE
    came_back = clock.now
    second = await published(kafka, topic, Kind.TWEETS, clock, 20.0)
    assert 100 < first < 200
    assert first + second > 400, "the third round has begun"

    values = await found(kafka, topic)
    assert len(values) == first + second
    assert texts(values) == texts(rounds(Kind.TWEETS, 0, 1, 2))[: len(values)]
    tweets = [decode_tweet(value) for value in values]
    ids = [int(tweet.id) for tweet in tweets]
    assert ids == sorted({*ids})
    assert tweets[first].time == int(came_back * 1000), "the next one is due at once"
    assert tweets[first - 1].time <= (came_back - PAUSE) * 1000


async def test_what_a_crash_left_unpublished_is_written_again(kafka: BrokerUnderTest) -> None:
    topic, clock = kafka.topic("tweets"), Moment()
    clock.end = clock.now + 1e9
    receiver = clock.receiver = SampleReceiver(
        Kind.TWEETS, topic, rate=RATE, bootstrap=kafka.bootstrap, partitions=1, clock=clock
    )
    running = asyncio.create_task(receiver.run())
    while receiver.status.records < 100:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})

    await published(kafka, topic, Kind.TWEETS, clock, 10.0)
    values = await found(kafka, topic)
    assert len(values) > 100
    assert texts(values) == texts(rounds(Kind.TWEETS, 0))[: len(values)]


async def test_log_lines_come_when_they_are_due(kafka: BrokerUnderTest) -> None:
    topic, clock = kafka.topic("lines"), Moment()
    began = clock.now
    count = await published(kafka, topic, Kind.LOG, clock, 30.0)
    times = [decode_log_line(line).time / 1000 for line in await found(kafka, topic)]
    assert count == len(times)
    assert 400 < count < 800, "about twenty a second"
    assert began - 5.0 < min(times)
    assert max(times) <= began + 31.0


@pytest.mark.parametrize("kind", Kind)
def test_a_round_is_the_same_whenever_it_is_written_and_its_items_are_in_order(kind: Kind) -> None:
    some = list(islice(items(kind, 3, START, RATE), 500))
    assert some == list(islice(items(kind, 3, START, RATE), 500))
    assert [item.time for item in some] == sorted(item.time for item in some)
    assert some != list(islice(items(kind, 4, START, RATE), 500))


async def test_with_the_clock_set_back_ids_still_ascend() -> None:
    clock = ManualClock(2_000_000_000.0)
    receiver = SampleReceiver(Kind.TWEETS, "tweets", clock=clock)
    later = clock.now_ms() + 60_000
    [(item, _)] = islice(receiver._from(SamplePosition(0, 5, later)), 1)
    assert item.time == later + 1


def test_a_rate_is_positive() -> None:
    with pytest.raises(ValueError, match="rate"):
        SampleReceiver(Kind.LOG, "lines", rate=0.0)
