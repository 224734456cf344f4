"""Hashtags in hopping windows, what each of them is used to, and the ranking of each language."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamapp import Count, TopK, app

#: The window, and how often there is one, in seconds.
SIZE: Final = 300
STEP: Final = 60

#: The scope of all tweets, beside one for each language.
ALL: Final = "*"

#: Where a tag would be: counts the tweets of a scope. No hashtag is empty.
TWEETS: Final = ""

#: Tags in a ranking.
PLACES: Final = 10

#: Seconds after which the past counts half.
HALF_LIFE: Final = 14 * 24 * 3600

_KEPT_EACH_WINDOW = 0.5 ** (SIZE / HALF_LIFE)


class Past(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a tag is used to: its counts in all windows that do not overlap, the latest most.

    With `w = 0.5 ** (age / HALF_LIFE)` of each such window, `weight`, `total` and `squares` are the
    sums of `w`, `w * count` and `w * count ** 2`. A window without the tag has a count of 0; it is
    made up for when the tag is seen again, so that a tag that nobody uses costs nothing.

    `until` is the number of windows of SIZE since the epoch when the last one in it had ended.
    """

    until: int
    weight: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def at(self, until: int) -> Past:
        """Return the past when `until` windows have ended, the tag in none of the latest."""
        kept: float = _KEPT_EACH_WINDOW ** (until - self.until)
        silence = (1.0 - kept) / (1.0 - _KEPT_EACH_WINDOW)
        return Past(until, self.weight * kept + silence, self.total * kept, self.squares * kept)

    def then(self, count: int) -> Past:
        """Return the past with one more window, in which the tag was in `count` tweets."""
        silent = self.at(self.until + 1)
        return Past(
            silent.until, silent.weight, silent.total + count, silent.squares + float(count) ** 2
        )

    def surprise(self, count: int) -> float:
        """Return by how many standard deviations `count` is above the past.

        The mean is taken with one more window of nothing, so that a new tag is compared with none.
        The variance is at least the mean, as of independent tweets (Poisson), and 1 more: a small
        number is no news. What comes and goes is in the variance: a tag with `n` tweets on one
        day in seven and none on the others scores about sqrt(6), and less than 3, on its day, however
        large `n` is. A tag that was never seen has its count itself.
        """
        mean = self.total / (self.weight + 1.0)
        variance = max(self.squares / (self.weight + 1.0) - mean * mean, mean)
        surprise: float = (count - mean) / (variance + 1.0) ** 0.5
        return surprise


class Ranking:
    """An aggregation: how many tweets, the tags in most of them, and those that surprise most.

    What is added is a part: `{"tweets": n, "top": [[count, tag, surprise], …], "rising":
    [[surprise, tag, count], …]}`. A tag is in the parts of one task only.
    """

    additive = False
    _best = TopK(PLACES)

    def zero(self) -> Any:
        return {"tweets": 0, "top": [], "rising": []}

    def add(self, accumulator: Any, value: Any) -> Any:
        return self.merge(accumulator, value)

    def merge(self, left: Any, right: Any) -> Any:
        return {
            "tweets": left["tweets"] + right["tweets"],
            "top": self._best.merge(left["top"], right["top"]),
            "rising": self._best.merge(left["rising"], right["rising"]),
        }

    def result(self, accumulator: Any) -> Any:
        return accumulator


#: (scope, tag) on its way to the owner of its count; the tags of a batch travel as counts.
tags = app.key_by("tags", aggregate=Count(), pane=STEP, key_type=tuple[str, str])

#: (scope, tag) to the number of tweets that had it.
tag_counts = app.BatchTable("tag_counts", aggregate=Count(), key_type=tuple[str, str]).hopping(
    SIZE, STEP
)

#: (scope, tag) to what it is used to.
pasts = app.BatchTable("tag_pasts", key_type=tuple[str, str], value_type=Past)

#: Each task's best tags of a window on their way to the owner of the scope.
best_tags = app.key_by("best_tags", aggregate=Ranking(), pane=STEP, key_type=str)

#: Scope to the ranking of the window that ended last, in the step that it ended with.
rankings = app.BatchTable("rankings", aggregate=Ranking(), key_type=str).tumbling(STEP)
