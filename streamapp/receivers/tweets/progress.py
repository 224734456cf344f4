"""How far a receiver of tweets is: what it keeps in Kafka, what it tells, what it sums up."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec

__all__ = ["Progress", "Summary", "TweetPosition"]


class TweetPosition(msgspec.Struct, frozen=True):
    """How far a receiver of tweets is.

    Attributes:
        complete: the id below which no tweet is missing, but for the overlap.
        newest: the highest id published.
        connects: when it connected, in milliseconds since the epoch: the quota outlives a process.
    """

    complete: int
    newest: int = 0
    connects: list[int] = []


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a receiver is.

    state: what it does. published: tweets since it started. backlog: lines not handled yet.
    behind: seconds since the newest published tweet was written; None before the first.
    """

    state: str
    published: int
    backlog: int
    behind: float | None


@dataclass(slots=True)
class Summary:
    """What a receiver has done, from its start to its end.

    Attributes:
        topic, name: where to, and under which name.
        published: tweets. searched: those of them that search has found.
        left_over: those of them that a process before had received, and kept.
        duplicates: tweets that came once more.
        edited: published tweets that are later versions. without_language: those without `lang`.
        partial: those with errors beside the tweet.
        dead_letters: lines that were none, too large, or too old to know whether they are new.
        notices: the server's, in the stream, also of disconnects.
        connects: how often it connected. ends: how connections ended.
        unsearchable: rules that recent search does not take.
        alarms: gaps that are older than search goes back.
        spilled: whether the disk was needed.
        transactions: committed.
        seconds: that it took.
        position: the committed one.
    """

    topic: str
    name: str
    published: int = 0
    searched: int = 0
    left_over: int = 0
    duplicates: int = 0
    edited: int = 0
    without_language: int = 0
    partial: int = 0
    dead_letters: int = 0
    notices: int = 0
    connects: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    unsearchable: list[str] = field(default_factory=list)
    alarms: int = 0
    spilled: bool = False
    transactions: int = 0
    seconds: float = 0.0
    position: TweetPosition | None = None
