"""Trending hashtags: the most used and the most surprising, of all tweets and by language."""

from __future__ import annotations

from typing import Any, Final

from streamapp import Batches, TopK, Window, app
from streamapp.topics import trends, tweets
from streamapp.tweets import Trend, Trends
from tables.trends import (
    ALL,
    PLACES,
    SIZE,
    TWEETS,
    Past,
    best_tags,
    pasts,
    rankings,
    tag_counts,
    tags,
)

#: A tag in fewer tweets of a window than this is no trend yet.
FEWEST: Final = 5

_SIZE_MS: Final = SIZE * 1000
_DAY_MS: Final = 24 * 3600 * 1000
#: A past that has come down to this is forgotten.
_FORGOTTEN: Final = 0.5
_BEST: Final = TopK(PLACES)


@app.batch_agent(tweets)
async def find_tags(batches: Batches) -> None:
    """Send each tweet and its tags to their counts; one that was edited counts as first written."""
    async for batch in batches:
        for tweet in batch:
            if tweet is None or tweet.is_edit:
                continue
            for tag in (TWEETS, *tweet.tags):
                tags.add((ALL, tag))
                tags.add((tweet.language, tag))


@app.batch_agent(tags)
async def count_tags(batches: Batches) -> None:
    """Add the partial counts to their windows."""
    async for batch in batches:
        for key, count in batch.items():
            tag_counts[key] += count


@tag_counts.on_close
def judge_tags(window: Window, counts: dict[tuple[str, str], int]) -> None:
    """Compare each tag with its past, and send the best of each scope to its ranking."""
    parts: dict[str, dict[str, Any]] = {}
    # Windows of SIZE that had ended before this one did.
    ended = (window.end - 1) // _SIZE_MS
    last_of_its_size = window.end % _SIZE_MS == 0
    for key, count in counts.items():
        scope, tag = key
        part = parts.setdefault(scope, {"tweets": 0, "top": [], "rising": []})
        if tag == TWEETS:
            part["tweets"] = count
            continue
        past = pasts.get(key)
        past = Past(ended) if past is None else past.at(ended)
        surprise = past.surprise(count)
        part["top"].append([count, tag, surprise])
        if surprise > 0 and count >= FEWEST:
            part["rising"].append([surprise, tag, count])
        if last_of_its_size:
            pasts[key] = past.then(count)
    for scope, part in parts.items():
        for list_name in ("top", "rising"):
            part[list_name] = _BEST.merge([], part[list_name])
        best_tags.add(scope, part, at=window.end - 1)
    if window.end % _DAY_MS == 0:
        _forget(ended + 1)


def _forget(ended: int) -> None:
    """Once a day, drop the pasts of tags that have hardly been used for weeks."""
    faint = [key for key, past in pasts.items() if past.at(ended).total < _FORGOTTEN]
    for key in faint:
        del pasts[key]


@app.batch_agent(best_tags)
async def rank_tags(batches: Batches) -> None:
    """Merge the best tags of all tasks."""
    async for batch in batches:
        for scope, part in batch.items():
            rankings[scope].merge(part)


@rankings.on_close
def publish_trends(step: Window, found: dict[str, Any]) -> None:
    """Publish the ranking of each scope, for the window that ended with this step."""
    for scope, ranking in found.items():
        result = Trends(
            scope=scope,
            start=step.end - _SIZE_MS,
            end=step.end,
            tweets=ranking["tweets"],
            rate=ranking["tweets"] / SIZE,
            top=[Trend(tag, count, surprise) for count, tag, surprise in ranking["top"]],
            rising=[Trend(tag, count, surprise) for surprise, tag, count in ranking["rising"]],
        )
        trends.send_soon(key=scope, value=result)
