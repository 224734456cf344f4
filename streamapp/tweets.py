"""Tweets as the X API v2 sends them, and what the trends application makes of them.

A tweet is read from a line of the stream (`{data, includes, matching_rules}`) or from the bare
object; only what is used is read, and whatever may be missing on the stream may be missing here.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta

import msgspec

from streamapp.errors import DecodeError

__all__ = ["UNKNOWN_LANGUAGE", "Trend", "Trends", "Tweet", "decode_tweet"]

#: What X calls a language that it did not recognise; a tweet without one is in it too.
UNKNOWN_LANGUAGE = "und"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: The moment from which the time in an id counts, and how many bits are behind it.
_ID_EPOCH = 1_288_834_974_657
_ID_BITS = 22


class Hashtag(msgspec.Struct, frozen=True, gc=False):
    """A hashtag as it was written, without its sign."""

    tag: str


class Entities(msgspec.Struct, frozen=True):
    """What X found in the text."""

    hashtags: tuple[Hashtag, ...] = ()


class Metrics(msgspec.Struct, frozen=True, gc=False):
    """What others had done with a tweet when it was sent."""

    retweet_count: int = 0
    reply_count: int = 0
    like_count: int = 0
    quote_count: int = 0


class Tweet(msgspec.Struct, frozen=True, kw_only=True):
    """One tweet; one that was edited is a tweet of its own, which names the versions before it."""

    id: str
    text: str = ""
    created_at: datetime | None = None
    lang: str | None = None
    author_id: str | None = None
    entities: Entities | None = None
    edit_history_tweet_ids: tuple[str, ...] = ()
    public_metrics: Metrics | None = None

    @property
    def time(self) -> int:
        """When it was written, in milliseconds since the epoch: its id tells without `created_at`.

        Raises:
            ValueError: it has neither.
        """
        created = self.created_at
        if created is None:
            return (int(self.id) >> _ID_BITS) + _ID_EPOCH
        aware = created if created.tzinfo else created.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MILLISECOND

    @property
    def language(self) -> str:
        """Its language."""
        return self.lang or UNKNOWN_LANGUAGE

    @property
    def is_edit(self) -> bool:
        """Whether it is a later version of a tweet that was published before."""
        return bool(self.edit_history_tweet_ids) and self.edit_history_tweet_ids[0] != self.id

    @property
    def tags(self) -> list[str]:
        """Its hashtags, each once, without regard to case and width: `#AI` is `ai`, as on X."""
        if self.entities is None:
            return []
        found = (unicodedata.normalize("NFKC", each.tag) for each in self.entities.hashtags)
        return list(dict.fromkeys(tag.casefold() for tag in found if tag))


class _Line(msgspec.Struct):
    data: Tweet | None = None
    id: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_bare = msgspec.json.Decoder(Tweet).decode


def decode_tweet(raw: bytes) -> Tweet:
    """Return the tweet of a line of the stream, or of a bare object.

    Raises:
        DecodeError: it is neither.
    """
    try:
        line = _decode_line(raw)
        if line.data is not None:
            return line.data
        if line.id is not None:
            return _decode_bare(raw)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"this is no tweet of the X API v2: {error}") from error
    raise DecodeError("this is no tweet of the X API v2: it has neither `data` nor an `id`")


class Trend(msgspec.Struct, frozen=True, gc=False):
    """A hashtag in a window: how many tweets had it, and how much that is against its own past."""

    tag: str
    count: int
    surprise: float


class Trends(msgspec.Struct, frozen=True):
    """The hashtags of the window `[start, end)`, in milliseconds.

    Attributes:
        scope: a language, or `*` for all tweets.
        tweets: how many there were. rate: of them a second.
        top: the tags in most tweets, the first one first.
        rising: those that are most above their own past.
    """

    scope: str
    start: int
    end: int
    tweets: int
    rate: float
    top: list[Trend]
    rising: list[Trend]
