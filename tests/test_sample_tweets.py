"""The generated tweets: repeatable, in the X API's shape, and with a trend where one is planted."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from tweepy import Tweet

from streamapp.sample_tweets import START, Trend, generate, snowflake


@pytest.fixture(scope="module")
def tweets() -> list[dict[str, Any]]:
    return [envelope["data"] for envelope in generate(20_000, seed=7)]


def tags(tweet: dict[str, Any]) -> list[str]:
    return [found["tag"] for found in tweet.get("entities", {}).get("hashtags", [])]


def created(tweet: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(tweet["created_at"])


def test_the_same_seed_gives_the_same_tweets():
    assert list(generate(500, seed=3)) == list(generate(500, seed=3))
    assert list(generate(100, seed=3)) != list(generate(100, seed=4))


def test_more_tweets_continue_fewer():
    assert list(islice(generate(500, seed=3), 100)) == list(generate(100, seed=3))


def test_tweepy_reads_them(tweets: list[dict[str, Any]]):
    tweet = Tweet(tweets[0])
    assert tweet.id == int(tweets[0]["id"])
    assert tweet.created_at == created(tweets[0])


def test_an_envelope_is_that_of_the_filtered_stream():
    (envelope,) = generate(1)
    assert set(envelope) == {"data", "includes", "matching_rules"}
    assert envelope["includes"]["users"][0]["id"] == envelope["data"]["author_id"]


def test_ids_ascend_and_carry_the_time(tweets: list[dict[str, Any]]):
    assert all(int(a["id"]) < int(b["id"]) for a, b in pairwise(tweets))
    for tweet in tweets:
        late = int(tweet["id"]) - snowflake(created(tweet))
        assert 0 <= late < 1000


def test_hashtags_stand_where_they_say(tweets: list[dict[str, Any]]):
    for tweet in tweets:
        for found in tweet.get("entities", {}).get("hashtags", []):
            assert tweet["text"][found["start"] : found["end"]] == f"#{found['tag']}"


def test_tags_follow_zipf(tweets: list[dict[str, Any]]):
    counts = [count for _, count in Counter(tag for t in tweets for tag in tags(t)).most_common()]
    assert counts[0] > 5 * counts[10] > 0


def test_they_are_as_varied_as_the_real_ones(tweets: list[dict[str, Any]]):
    assert {"en", "ja", "es", "de", "fr", "ar", None} == {tweet.get("lang") for tweet in tweets}
    assert any("🚀" in tweet["text"] for tweet in tweets)
    assert 0.15 < sum("referenced_tweets" in tweet for tweet in tweets) / len(tweets) < 0.3
    edited = [tweet for tweet in tweets if len(tweet["edit_history_tweet_ids"]) > 1]
    assert edited
    assert all(tweet["edit_history_tweet_ids"][-1] == tweet["id"] for tweet in edited)


def test_a_planted_trend_is_there_and_nowhere_else():
    trend = Trend("planted", begin=timedelta(seconds=60), length=timedelta(seconds=60), share=0.4)
    inside, outside = 0, 0
    for envelope in generate(10_000, seed=5, trend=trend):
        tweet = envelope["data"]
        if trend.holds((created(tweet) - START).total_seconds()):
            inside += 1
            outside += "planted" not in tags(tweet)
        else:
            assert "planted" not in tags(tweet)
    assert 0.3 < 1 - outside / inside < 0.5


def test_start_and_rate_are_kept():
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    *_, last = generate(1_000, start=noon, rate=100.0)
    assert timedelta(seconds=5) < created(last["data"]) - noon < timedelta(seconds=15)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_is_not_positive_is_refused(rate: float):
    with pytest.raises(ValueError, match="must be positive"):
        generate(1, rate=rate)


def test_a_start_without_zone_is_refused():
    with pytest.raises(ValueError, match="needs a zone"):
        generate(1, start=datetime(2026, 1, 1))  # noqa: DTZ001
