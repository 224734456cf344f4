"""Tweets that nobody wrote, in the shape of the X API v2: for the demo, for tests, for a dry run.

The same arguments give the same tweets. Hashtags follow Zipf's law with favourites in every
language, some tags flare up for a minute or two, a quarter of the tweets are retweets, a few are
edited later, and some lack their `lang`, as on the real stream.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

__all__ = ["SNOWFLAKE_EPOCH_MS", "START", "Trend", "generate", "snowflake"]

START: Final = datetime(2026, 3, 2, 18, 0, tzinfo=UTC)
"""When the tweets begin unless told otherwise: a Monday evening."""

SNOWFLAKE_EPOCH_MS: Final = 1_288_834_974_657
"""The moment from which the time in a tweet's id counts, in milliseconds since the Unix epoch."""

_SEQUENCE_BITS = 22
_ZIPF = 1.1
_RETWEETS, _EDITS, _NO_LANG, _NO_TAG = 0.25, 0.01, 0.04, 0.25
_QUIET_BETWEEN_BURSTS = 240.0

_TAGS = (
    *("python", "monday", "news", "music", "kafka", "football", "AI", "weather", "coffee"),
    *("opensource", "travel", "film", "books", "climate", "space", "art", "games", "jazz"),
    *("data", "cycling", "chess", "gardening", "photography", "startups", "linux", "rust"),
    *("marathon", "volcano", "museum", "eclipse", "lighthouse", "origami", "sourdough"),
)
_LANGUAGES = (
    (50, "en", (), ("Reading about {}", "So much {} today", "Who else loves {} ?", "{} !!")),
    (15, "ja", ("日本", "東京", "猫", "音楽"), ("今日の {} です", "{} が好き", "{} すごい 🎉")),
    (12, "es", ("fútbol", "España", "música"), ("Hablemos de {}", "Me encanta {} ❤️", "Hoy: {}")),
    (8, "de", ("Straße", "Tatort", "Fußball"), ("Heute mit {}", "Endlich wieder {}", "Nur {} 🚲")),
    (8, "fr", ("café", "Noël", "été"), ("On parle de {}", "Vive {} 🥐", "Encore {} ce soir")),
    (7, "ar", ("القاهرة", "كرة_القدم"), ("اليوم {}", "أحب {} 🌙")),
)
_EMOJI = ("", "", "", " 🚀", " 😂", " 👩‍💻", " 🇯🇵", " 🔥🔥", " ☕️")


@dataclass(frozen=True, slots=True)
class Trend:
    """A tag that is planted: it takes `share` of all tweets for a while.

    tag: without its sign.
    begin: when it starts, after the first tweet. length: how long it stays.
    share: of the tweets in that time, from 0 to 1.
    """

    tag: str
    begin: timedelta = timedelta(minutes=5)
    length: timedelta = timedelta(minutes=2)
    share: float = 0.3

    def holds(self, seconds: float) -> bool:
        """Whether it is on, so many seconds after the first tweet."""
        return 0.0 <= seconds - self.begin.total_seconds() < self.length.total_seconds()


def snowflake(moment: datetime, sequence: int = 0) -> int:
    """The id of the tweet number `sequence` of the millisecond of `moment`."""
    since = moment - datetime.fromtimestamp(0, UTC)
    milliseconds = since // timedelta(milliseconds=1)
    return ((milliseconds - SNOWFLAKE_EPOCH_MS) << _SEQUENCE_BITS) + sequence


def generate(
    count: int,
    seed: int = 0,
    start: datetime = START,
    rate: float = 50.0,
    trend: Trend | None = None,
) -> Iterator[dict[str, Any]]:
    """Write `count` tweets as the filtered stream sends them: `{data, includes, matching_rules}`.

    Args:
        count: how many.
        seed: the same arguments give the same tweets; a larger count only continues them.
        start: not before the time of the first tweet.
        rate: tweets a second while no tag flares up; a burst adds up to twice as many.
        trend: a tag to plant.

    Yields:
        One object a tweet, with ascending ids whose time is `created_at`. Its hashtags are in
        `data.entities.hashtags[].tag`; without any there are no entities. `lang` may be missing.

    Raises:
        ValueError: `rate` is not positive, or `start` has no zone.
    """
    if rate <= 0:
        raise ValueError(f"rate is tweets a second and must be positive, not {rate}")
    if start.tzinfo is None:
        raise ValueError("start needs a zone: generate(..., start=datetime(..., tzinfo=UTC))")
    return _Writer(Random(seed), start.astimezone(UTC), rate, trend).write(count)


@dataclass(frozen=True, slots=True)
class _Burst:
    """A tag flaring up, `begin` and `length` in seconds: there at once, dying away."""

    begin: float
    length: float
    peak: float
    tag: str

    def intensity(self, now: float) -> float:
        """Tweets for each ordinary one."""
        along = (now - self.begin) / self.length
        return self.peak * math.exp(-3.0 * along) if 0.0 <= along < 1.0 else 0.0


class _Writer:
    def __init__(self, random: Random, start: datetime, rate: float, trend: Trend | None) -> None:
        self._random = random
        self._start = start
        self._rate = rate
        self._trend = trend
        self._recent: deque[dict[str, Any]] = deque(maxlen=200)
        self._last_id = 0
        self._burst = self._next_burst(0.0)
        self._favourites = {
            lang: ([*own, *_TAGS], [(rank + 1) ** -_ZIPF for rank in range(len(own) + len(_TAGS))])
            for _, lang, own, _ in _LANGUAGES
        }

    def write(self, count: int) -> Iterator[dict[str, Any]]:
        now = 0.0
        for _ in range(count):
            burst = self._burst.intensity(now)
            now -= math.log(1.0 - self._random.random()) / (self._rate * (1.0 + burst))
            if now >= self._burst.begin + self._burst.length:
                self._burst = self._next_burst(now)
            in_burst = self._random.random() < burst / (1.0 + burst)
            yield self._tweet(now, self._burst.tag if in_burst else None)

    def _next_burst(self, now: float) -> _Burst:
        random = self._random
        return _Burst(
            begin=now + _QUIET_BETWEEN_BURSTS * random.uniform(0.4, 1.6),
            length=random.uniform(30.0, 150.0),
            peak=random.uniform(0.5, 2.0),
            tag=random.choice(_TAGS),
        )

    def _tweet(self, now: float, tag: str | None) -> dict[str, Any]:
        random = self._random
        trend = self._trend
        planted = random.random()
        if trend is not None and trend.holds(now) and planted < trend.share:
            return self._envelope(self._original(now, [trend.tag]))
        kind = random.random()
        if tag is None and self._recent and kind < _RETWEETS:
            return self._envelope(self._retweet(now, random.choice(self._recent)))
        if tag is None and self._recent and kind < _RETWEETS + _EDITS:
            return self._envelope(self._edit(now, random.choice(self._recent)))
        tweet = self._original(now, None if tag is None else [tag])
        self._recent.append(tweet)
        return self._envelope(tweet)

    def _original(self, now: float, tags: list[str] | None) -> dict[str, Any]:
        random = self._random
        ((_, lang, _, phrases),) = random.choices(_LANGUAGES, [row[0] for row in _LANGUAGES])
        if tags is None:
            names, weights = self._favourites[lang]
            several = 0 if random.random() < _NO_TAG else random.choice((1, 1, 1, 2, 3))
            tags = list(dict.fromkeys(random.choices(names, weights, k=several)))
        author = int(random.paretovariate(0.8)) % 100_000 + 1
        text = random.choice(phrases).format(" ".join(f"#{tag}" for tag in tags) or "…")
        tweet = self._base(now, text + random.choice(_EMOJI), tags, str(author))
        if random.random() >= _NO_LANG:
            tweet["lang"] = lang
        return tweet

    def _retweet(self, now: float, original: dict[str, Any]) -> dict[str, Any]:
        author = self._random.randint(1, 100_000)
        text = f"RT @user{original['author_id']}: {original['text']}"
        tweet = self._base(now, text, _tags_of(original), str(author))
        tweet["referenced_tweets"] = [{"type": "retweeted", "id": original["id"]}]
        return tweet | {key: original[key] for key in ("lang",) if key in original}

    def _edit(self, now: float, original: dict[str, Any]) -> dict[str, Any]:
        """An edited tweet is a new one, with a new id, that names its earlier versions."""
        text = f"{original['text']} (edit)"
        tweet = self._base(now, text, _tags_of(original), original["author_id"])
        tweet["edit_history_tweet_ids"] = [*original["edit_history_tweet_ids"], tweet["id"]]
        self._recent.remove(original)
        self._recent.append(tweet)
        return tweet | {key: original[key] for key in ("lang",) if key in original}

    def _base(self, now: float, text: str, tags: list[str], author: str) -> dict[str, Any]:
        moment = self._start + timedelta(seconds=now)
        self._last_id = max(self._last_id + 1, snowflake(moment))
        likes = int(self._random.paretovariate(1.2)) - 1
        tweet: dict[str, Any] = {
            "id": str(self._last_id),
            "text": text,
            "author_id": author,
            "created_at": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
            "edit_history_tweet_ids": [str(self._last_id)],
            "public_metrics": {
                "retweet_count": likes // 4,
                "reply_count": likes // 8,
                "like_count": likes,
                "quote_count": likes // 20,
            },
        }
        if tags:
            tweet["entities"] = {"hashtags": list(_hashtags(text, tags))}
        return tweet

    def _envelope(self, tweet: dict[str, Any]) -> dict[str, Any]:
        author = tweet["author_id"]
        user = {"id": author, "name": f"User {author}", "username": f"user{author}"}
        return {
            "data": tweet,
            "includes": {"users": [user]},
            "matching_rules": [{"id": "1", "tag": "sample"}],
        }


def _hashtags(text: str, tags: list[str]) -> Iterator[dict[str, Any]]:
    """Where each tag stands; positions count code points."""
    end = 0
    for tag in tags:
        begin = text.index(f"#{tag}", end)
        end = begin + len(tag) + 1
        yield {"start": begin, "end": end, "tag": tag}


def _tags_of(tweet: dict[str, Any]) -> list[str]:
    return [hashtag["tag"] for hashtag in tweet.get("entities", {}).get("hashtags", ())]
