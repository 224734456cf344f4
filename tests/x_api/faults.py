"""What the fake does to its clients, and when."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

__all__ = ["KINDS", "LOUD", "Fault", "scatter"]

KINDS: Final = (
    *("reset", "end", "half-line", "half-line-reset", "stall", "429", "503", "malformed"),
    *("duplicate", "reorder", "huge", "error", "title", "disconnect", "lag", "death"),
)
"""reset: the connection is cut. end: it ends cleanly. half-line: it ends within a tweet.
stall: silence. A number: the answer to the next connects. malformed, huge: a line that is no tweet.
duplicate: old lines again. reorder: the next lines in another order. error: errors in the stream.
title: an error with nothing but a title. disconnect: a notice, then the end. lag: search falls
behind. death: the server is away for a while."""

LOUD: Final = ("401", "403")
"""What a receiver is to give up on, with a message."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` happens when tweet number `at` is about to be sent; `times` is for how many connects."""

    at: int
    kind: str
    times: int = 1


def scatter(seed: int, tweets: int, count: int) -> list[Fault]:
    """`count` faults among so many tweets, all kinds of them, as the seed has it."""
    random = Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(count - len(LOUD))] + list(LOUD)
    random.shuffle(kinds)
    places = sorted(random.sample(range(1, max(tweets - tweets // 20, count + 2)), count))
    return [
        Fault(at, kind, random.randint(1, 2) if kind in ("429", "503") else 1)
        for at, kind in zip(places, kinds, strict=True)
    ]
