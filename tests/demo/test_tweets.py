"""The view of trending hashtags, and the tally behind it, without topics and without a terminal."""

from __future__ import annotations

from io import StringIO

import msgspec
import pytest
from rich.console import Console

from streamapp.demo.tweet_screen import TweetScreen
from streamapp.demo.tweet_tally import ALL, STEP, TweetTally
from streamapp.engine.marker import LedgerBatch, LedgerEntry
from streamapp.receivers.positions import Committed
from streamapp.receivers.topics import positions_of
from streamapp.tweets import Trend, Trends

FIND, COUNT = "find_tags", "count_tags"
TWEETS, TAGS, TRENDS = TweetTally.source, TweetTally.partials, TweetTally.results


def trends(scope: str, end: int, *tags: str, tweets: int = 30) -> Trends:
    found = [Trend(tag, 10 - number, 3.0 - number / 4) for number, tag in enumerate(tags)]
    return Trends(scope, end - 5 * STEP, end, tweets, tweets / 300, found, found[::-1])


def take(tally: TweetTally, *found: Trends) -> None:
    for each in found:
        tally.take(TRENDS, 0, 0, each.scope.encode(), msgspec.json.encode(each))


def checkpoint(tally: TweetTally, topology: str, topic: str, until: int, **fields: int) -> None:
    batch = LedgerBatch(topic=topic, partition=0, from_offset=0, until_offset=until, records=until)
    entry = LedgerEntry(
        topology=topology,
        partition=0,
        sequence=1,
        worker="w",
        epoch=1,
        guarantee="exactly_once",
        at=0,
        batches=[batch],
        **fields,
    )
    tally.take(f"streamapp-{topology}-ledger", 0, 0, None, msgspec.json.encode(entry))


def drawn(view: TweetScreen, width: int, height: int) -> list[str]:
    console = Console(width=width, file=StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(view.draw(width, height))
    return [line.rstrip() for line in captured.get().splitlines()]


def screen(tally: TweetTally) -> TweetScreen:
    return TweetScreen(tally, "tweets.jsonl", 1_000, 0.0)


def test_the_latest_window_of_each_scope_is_kept_whatever_the_order() -> None:
    tally = TweetTally()
    take(tally, trends(ALL, 2 * STEP, "b"), trends("en", STEP, "x"), trends(ALL, STEP, "a"))
    assert {scope: each.end for scope, each in tally.latest.items()} == {ALL: 2 * STEP, "en": STEP}
    assert sorted(tally.windows) == [STEP, 2 * STEP]


def test_it_is_settled_when_all_is_counted_and_what_is_over_is_ranked() -> None:
    tally = TweetTally()
    position = Committed(published=3)
    tally.take(positions_of(TWEETS), 0, 0, b"demo", msgspec.json.encode(position))
    assert not tally.settled
    checkpoint(tally, FIND, TWEETS, 3)
    assert tally.settled
    tally.take(TAGS, 0, 6, b"tag", b"1")
    tally.take(TAGS, 0, 7, None, None)
    assert not tally.settled, "a record is not counted; the mark behind it does not matter"
    checkpoint(tally, COUNT, TAGS, 7, watermark=2 * STEP + 1, late=2, dead_letters=1)
    assert not tally.settled, "a window is over and not ranked"
    take(tally, trends(ALL, 2 * STEP, "a"))
    assert tally.settled
    assert (tally.late, tally.dead_letters, tally.batches) == (2, 1, 2)


@pytest.mark.parametrize("height", [20, 24, 40])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    tally = TweetTally()
    tags = [f"{'long' * number}日本{number}" for number in range(10)]
    take(tally, *(trends(scope, STEP, *tags) for scope in (ALL, *"abcdefgh")))
    tally.watermark = STEP
    view = screen(tally)
    view.note, view.hint = "A note.", "A hint"
    lines = drawn(view, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("A note.")


def test_before_the_first_window_it_says_so() -> None:
    assert any("no window is over yet" in line for line in drawn(screen(TweetTally()), 100, 30))


def test_the_most_used_and_the_most_surprising_stand_beside_each_other() -> None:
    tally = TweetTally()
    take(tally, trends(ALL, STEP, "kafka", "rust"), trends("en", STEP, "kafka"))
    lines = drawn(screen(tally), 100, 30)
    [first] = [line for line in lines if line.startswith("#kafka")]
    assert "#rust" in first
    assert first.split("▆")[-1].split() == ["2.8"]
    assert any(line.split()[:4] == ["en", "30", "#kafka", "10"] for line in lines)
    assert screen(tally).line().endswith("00:01:00 top #kafka  rising #rust")


def test_a_live_source_has_no_end_to_come_near_to() -> None:
    live = TweetScreen(TweetTally(), "X", None, 0.0)
    [ingested] = [line for line in drawn(live, 100, 30) if line.startswith("ingested")]
    assert ingested.endswith("live")
