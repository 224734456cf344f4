"""Trending hashtags, against computing them from all the tweets at once."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents.trends import FEWEST, count_tags, find_tags, rank_tags
from streamapp import app
from streamapp.sample_tweets import START, generate, snowflake
from streamapp.sample_tweets import Trend as Planted
from streamapp.testing import AppTest
from streamapp.topics import trends, tweets
from streamapp.tweets import Trends, Tweet, decode_tweet
from tables.trends import ALL, HALF_LIFE, PLACES, SIZE, STEP, Past, pasts, tag_counts, tags

#: Idle partitions, five-minute windows, and rankings behind them.
LONG = 600

SIZE_MS, STEP_MS = SIZE * 1000, STEP * 1000
BEGIN = datetime(2026, 3, 2, 18, tzinfo=UTC)

#: Tag to its count, or its surprise; by scope, and by the end of the window.
Numbers = dict[str, float]


@pytest.fixture
async def t() -> AsyncIterator[AppTest]:
    async with app.test(agents=[find_tags, count_tags, rank_tags], now=BEGIN) as t:
        yield t


def tweet(
    second: float, *hashtags: str, lang: str | None = "en", number: int = 0, **fields: Any
) -> dict[str, Any]:
    moment = BEGIN + timedelta(seconds=second)
    found: dict[str, Any] = {
        "id": str(snowflake(moment, number)),
        "text": " ".join(f"#{tag}" for tag in hashtags),
        "created_at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if lang is not None:
        found["lang"] = lang
    if hashtags:
        found["entities"] = {"hashtags": [{"start": 0, "end": 1, "tag": tag} for tag in hashtags]}
    return found | fields


async def send(t: AppTest, found: dict[str, Any], partition: int | None = None) -> None:
    key = found.get("data", found)["id"]
    await t.send(tweets, json.dumps(found).encode(), key=key, partition=partition)


async def send_all(t: AppTest, found: Iterable[dict[str, Any]]) -> None:
    async with t.batch():
        for each in found:
            await send(t, each)


def published(t: AppTest) -> dict[tuple[str, int], Trends]:
    found = [record.value for record in t.output(trends)]
    by_window = {(each.scope, each.end): each for each in found}
    assert len(by_window) == len(found), "a window of a scope is published once"
    assert all(each.end == each.start + SIZE_MS for each in found)
    return by_window


class ByHand:
    """The definition, computed from a list of tweets: nothing in it is incremental."""

    def __init__(self, found: Iterable[dict[str, Any]]) -> None:
        self.tweets: Counter[tuple[str, int]] = Counter()
        self.counts: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        for each in found:
            read = decode_tweet(json.dumps(each).encode())
            history = each.get("data", each).get("edit_history_tweet_ids") or [read.id]
            if history[0] != read.id:
                continue
            written = {
                h["tag"] for h in each.get("data", each).get("entities", {}).get("hashtags", [])
            }
            for scope in (ALL, read.lang or "und"):
                for end in range(
                    read.time // STEP_MS * STEP_MS + STEP_MS, read.time + SIZE_MS + 1, STEP_MS
                ):
                    assert end - SIZE_MS <= read.time < end
                    self.tweets[scope, end] += 1
                    self.counts[scope, end].update({tag.casefold() for tag in written})

    def surprise(self, scope: str, tag: str, end: int) -> float:
        """Compare with all windows of SIZE that had ended before, since the tag was first seen."""
        full = range((end - 1) // SIZE_MS * SIZE_MS, 0, -SIZE_MS)
        past: list[int] = []
        first = min(
            e
            for (s, e), counts in self.counts.items()
            if s == scope and counts[tag] and not e % SIZE_MS
        )
        for ended in full:
            if ended < first:
                break
            past.append(self.counts[scope, ended][tag])
        weights = [0.5 ** (age * SIZE / HALF_LIFE) for age in range(len(past))]
        whole = sum(weights) + 1
        mean = sum(w * n for w, n in zip(weights, past, strict=True)) / whole
        squares = sum(w * n * n for w, n in zip(weights, past, strict=True)) / whole
        count = self.counts[scope, end][tag]
        return (count - mean) / math.sqrt(max(squares - mean**2, mean) + 1)


def agrees(found: dict[tuple[str, int], Trends], expected: ByHand) -> None:
    assert {key: each.tweets for key, each in found.items()} == dict(expected.tweets)
    for (scope, end), each in found.items():
        counts = expected.counts[scope, end]
        assert each.rate == each.tweets / SIZE
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        assert [(trend.tag, trend.count) for trend in each.top] == ordered[:PLACES]
        surprises = {tag: expected.surprise(scope, tag, end) for tag in counts}
        for trend in (*each.top, *each.rising):
            assert trend.surprise == pytest.approx(surprises[trend.tag], abs=1e-6)
            assert trend.count == counts[trend.tag]
        enough = [s for tag, s in surprises.items() if counts[tag] >= FEWEST and s > 1e-9]
        best = sorted(enough, reverse=True)[:PLACES]
        assert [trend.surprise for trend in each.rising] == pytest.approx(best, abs=1e-6)


# ---------------------------------------------------------------------- what is a tweet's


def test_a_tweet_may_lack_nearly_everything() -> None:
    bare = decode_tweet(b'{"id":"1700000000000000000"}')
    assert (bare.tags, bare.language, bare.is_edit) == ([], "und", False)
    # 16 September 2023: the moment is in the id.
    assert bare.time == (1700000000000000000 >> 22) + 1288834974657


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"data":{"text":"no id"}}', b'{"errors":[{"title":"no"}]}', b"\xff"],
)
def test_what_is_no_tweet_is_refused(raw: bytes) -> None:
    with pytest.raises(Exception, match="no tweet of the X API v2"):
        decode_tweet(raw)


def test_tags_are_one_whatever_their_case_and_width() -> None:
    found = tweet(0, "AI", "ai", "Straße", "STRASSE", "\uff2bafka", "kafka", "日本")
    assert decode_tweet(json.dumps(found).encode()).tags == ["ai", "strasse", "kafka", "日本"]


def test_the_line_of_the_stream_and_the_bare_tweet_are_the_same() -> None:
    found = tweet(1.5, "a", author_id="7", public_metrics={"like_count": 3})
    line = {"data": found, "includes": {"users": []}, "matching_rules": [{"id": "1", "tag": "r"}]}
    read = decode_tweet(json.dumps(line).encode())
    assert read == decode_tweet(json.dumps(found).encode())
    assert isinstance(read, Tweet)
    assert read.time == round(BEGIN.timestamp() * 1000) + 1500


# ---------------------------------------------------------------------- counted


async def test_a_tag_counts_once_a_tweet_in_its_language_and_in_all(t: AppTest) -> None:
    await send_all(t, [tweet(10, "Kafka", "kafka"), tweet(11, "kafka", lang=None), tweet(12)])
    await t.advance(LONG)
    last = max(end for _, end in published(t))
    found = {scope: each for (scope, end), each in published(t).items() if end == last}
    assert {
        scope: (each.tweets, [(x.tag, x.count) for x in each.top]) for scope, each in found.items()
    } == {
        ALL: (3, [("kafka", 2)]),
        "en": (2, [("kafka", 1)]),
        "und": (1, [("kafka", 1)]),
    }
    assert found[ALL].rate == 3 / SIZE


async def test_an_edited_tweet_counts_as_first_written(t: AppTest) -> None:
    first = tweet(10, "before")
    first["edit_history_tweet_ids"] = [first["id"]]
    second = tweet(20, "after", number=1)
    second["edit_history_tweet_ids"] = [first["id"], second["id"]]
    await send_all(t, [first, second])
    assert tag_counts.value((ALL, "before"), at=BEGIN + timedelta(seconds=10)) == 1
    assert tag_counts.value((ALL, "after"), at=BEGIN + timedelta(seconds=20)) == 0
    assert tag_counts.value((ALL, ""), at=BEGIN + timedelta(seconds=20)) == 1


async def test_the_tags_of_a_batch_travel_as_counts(t: AppTest) -> None:
    async with t.batch():
        for number in range(200):
            await send(t, tweet(number % 50, "kafka", number=number), partition=0)
    sent = {record.key: record.value for record in t.output(tags)}
    assert sent == {(scope, tag): 200 for scope in (ALL, "en") for tag in ("", "kafka")}


async def test_what_is_no_tweet_is_a_dead_letter_and_the_rest_goes_on(t: AppTest) -> None:
    async with t.batch():
        await t.send(tweets, b"no tweet", key="1", partition=0)
        await send(t, tweet(1, "kafka"), partition=0)
        await t.send(tweets, b'{"id":"x"}', key="2", partition=0)
    assert [letter.value for letter in t.dead_letters] == [b"no tweet", b'{"id":"x"}']
    assert tag_counts.value((ALL, "kafka"), at=BEGIN) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_generated_tweets_rank_as_by_hand_with_restarts_and_crashes(
    t: AppTest, seed: int
) -> None:
    """Half an hour of tweets, up to 20 s out of order, in batches of any size."""
    chance = random.Random(seed)
    found = list(generate(1500, seed=seed, start=BEGIN, rate=0.8))
    sent = sorted(
        found, key=lambda each: int(each["data"]["id"]) + (chance.randrange(20_000) << 22)
    )
    t.cut_every(chance.randrange(20, 200))
    while sent:
        match chance.randrange(6):
            case 0:
                await t.restart(keep_stores=chance.random() < 0.5)
            case 1:
                t.crash(chance.choice(["before-commit", "after-commit"]))
        count = chance.randrange(1, 300)
        taken, sent = sent[:count], sent[count:]
        await send_all(t, taken)
    await t.advance(LONG)
    assert (t.late, t.dead_letters) == (0, [])
    agrees(published(t), ByHand(found))


# ---------------------------------------------------------------------- found


@pytest.mark.parametrize("seed", range(2))
async def test_a_planted_trend_is_found_within_one_window(t: AppTest, seed: int) -> None:
    planted = Planted("eclipse2026", begin=timedelta(minutes=20), length=timedelta(minutes=5))
    await send_all(t, generate(4500, seed=seed, start=BEGIN, rate=2.0, trend=planted))
    await t.advance(LONG)
    begin = round((BEGIN + planted.begin).timestamp() * 1000)
    first = min(
        end
        for (scope, end), each in published(t).items()
        if scope == ALL and each.rising and each.rising[0].tag == planted.tag
    )
    assert begin < first <= begin + SIZE_MS


def test_a_tag_that_comes_every_seventh_day_is_little_news_however_large_it_is() -> None:
    day = 24 * 3600 // SIZE
    for size in (20, 200_000):
        past = Past(0)
        for number in range(10 * 7 * day):
            past = past.then(size if number % (7 * day) < day else 0)
        monday = past.surprise(size)
        assert 2.0 < monday < 3.0
        assert past.surprise(3 * size) > 3 * monday


def test_a_steady_tag_is_no_news_and_a_new_one_is() -> None:
    steady = Past(0)
    for _ in range(100):
        steady = steady.then(50)
    assert abs(steady.surprise(50)) < 0.2
    assert steady.surprise(100) > 5
    assert Past(0).surprise(10) == 10


def test_silence_is_made_up_for() -> None:
    told, untold = Past(0).then(5), Past(0).then(5)
    for _ in range(1000):
        told = told.then(0)
    untold = untold.at(1001)
    assert told.until == untold.until
    assert (told.weight, told.total, told.squares) == pytest.approx(
        (untold.weight, untold.total, untold.squares)
    )


async def test_pasts_that_have_faded_are_forgotten(t: AppTest) -> None:
    midnight = 6 * 3600
    weeks = 40 * 24 * 3600
    await send_all(t, [tweet(-1, "once", number=n) for n in range(2)])
    await send_all(t, [tweet(midnight - 100 + n, "often", number=n) for n in range(50)])
    await t.advance(LONG)
    assert {tag for _, tag in dict(pasts.items())} == {"once", "often"}
    for at in (weeks, weeks + midnight - 1):
        # Enough tags that every task has one whose window ends at midnight.
        await send_all(t, [tweet(at, f"now{n}", number=n) for n in range(50)])
    await t.advance(LONG)
    kept = {tag for _, tag in dict(pasts.items())}
    assert "often" in kept
    assert "once" not in kept


def test_the_generator_begins_where_the_tests_do() -> None:
    assert START == BEGIN
