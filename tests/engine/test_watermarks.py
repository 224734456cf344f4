"""How far event time has come: examples, and any history against a model that knows it all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.watermarks import Watermarks
from tests.state.quick import QUICK

TIMEOUT = 100


def of(**sources: list[str]) -> Watermarks:
    return Watermarks(sources, TIMEOUT, 0)


def test_it_is_not_known_before_every_source_has_spoken() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 50, 0)
    assert marks.advance(0, []) is None
    marks.observe("b", 70, 0)
    assert marks.advance(0, []) == 50


def test_it_is_the_least_mark_and_each_mark_the_highest_time() -> None:
    marks = of(a=[], b=[])
    for time in (50, 90, 60):
        marks.observe("a", time, 0)
    marks.observe("b", 80, 0)
    assert marks.advance(0, []) == 80


def test_it_never_goes_back() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 500, 0)
    marks.advance(TIMEOUT, {"a", "b"})
    marks.observe("b", 10, TIMEOUT)
    assert marks.advance(TIMEOUT, []) == 500


def test_a_source_that_is_caught_up_and_quiet_no_longer_holds_it() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 500, 0)
    marks.observe("b", 10, 0)
    marks.observe("a", 500, TIMEOUT - 1)
    assert marks.advance(TIMEOUT - 1, {"a", "b"}) == 10
    assert marks.advance(TIMEOUT, {"a", "b"}) == 500


def test_a_source_with_a_lag_is_not_idle_however_long_it_is_quiet() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 500, 0)
    marks.observe("b", 10, 0)
    marks.observe("a", 500, 10 * TIMEOUT)
    assert marks.advance(10 * TIMEOUT, {"a"}) == 10


def test_a_source_that_speaks_again_holds_it_again() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 100, 0)
    marks.advance(TIMEOUT, {"b"})
    assert marks.watermark == 100
    marks.observe("b", 150, TIMEOUT)
    marks.observe("a", 200, TIMEOUT)
    assert marks.advance(TIMEOUT, {"a", "b"}) == 150


def test_alone_it_goes_on_with_the_clock_from_where_it_stands() -> None:
    """Data may be from 2005: it must not jump to today."""
    marks = of(a=[])
    marks.observe("a", 7, 1_000_000)
    assert marks.advance(1_000_000 + TIMEOUT, {"a"}) == 7
    assert marks.advance(1_000_000 + TIMEOUT + 30, {"a"}) == 37
    marks.observe("a", 20, 1_000_200)
    assert marks.advance(1_000_200, {"a"}) == 37


def test_alone_again_it_goes_on_from_where_it_stands_then() -> None:
    marks = of(a=[])
    marks.observe("a", 0, 0)
    marks.advance(TIMEOUT, {"a"})
    assert marks.advance(TIMEOUT + 50, {"a"}) == 50
    marks.observe("a", 60, 1_000)
    assert marks.advance(1_000, {"a"}) == 60
    assert marks.advance(1_000 + TIMEOUT, {"a"}) == 60
    assert marks.advance(1_000 + TIMEOUT + 5, {"a"}) == 65


def test_when_all_are_idle_the_last_marks_count() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 500, 0)
    marks.observe("b", 10, 0)
    assert marks.advance(TIMEOUT, {"a", "b"}) == 500


def test_without_any_record_ever_the_clock_moves_nothing() -> None:
    marks = of(a=[])
    assert marks.advance(10 * TIMEOUT, {"a"}) is None
    assert marks.idle


def test_records_without_an_event_time_are_no_quiet() -> None:
    marks = of(a=[], b=[])
    marks.observe("a", 500, 0)
    marks.observe("b", 10, 0)
    marks.seen("b", TIMEOUT)
    marks.observe("a", 500, TIMEOUT)
    assert marks.advance(TIMEOUT, {"a", "b"}) == 10


def test_downstream_waits_for_every_upstream() -> None:
    marks = of(k=["u/0", "u/1"])
    marks.hear("k", "u/0", 50, False)
    assert marks.advance(10 * TIMEOUT, {"k"}) is None
    marks.hear("k", "u/1", 30, False)
    assert marks.advance(10 * TIMEOUT, {"k"}) == 30


def test_the_times_of_sent_on_records_say_nothing_of_how_far_upstream_is() -> None:
    marks = of(k=["u/0"])
    marks.observe("k", 500, 0)
    assert marks.advance(0, {"k"}) is None
    marks.hear("k", "u/0", 30, False)
    assert marks.advance(0, {"k"}) == 30


def test_downstream_does_not_wait_for_an_upstream_that_says_it_is_idle() -> None:
    marks = of(k=["u/0", "u/1"])
    marks.hear("k", "u/0", 50, False)
    marks.hear("k", "u/1", None, True)
    assert marks.advance(0, {"k"}) == 50
    marks.hear("k", "u/1", 60, False)
    marks.hear("k", "u/0", 80, False)
    assert marks.advance(0, {"k"}) == 60


def test_an_upstream_that_was_not_known_is_waited_for_once_it_has_spoken() -> None:
    marks = of(k=["u/0"])
    marks.hear("k", "u/0", 50, False)
    marks.hear("k", "u/9", 20, False)
    assert marks.advance(0, []) == 20


def test_it_goes_on_where_the_marker_says() -> None:
    marks = of(a=[], k=["u/0", "u/1"])
    marks.observe("a", 500, 0)
    marks.hear("k", "u/0", 300, False)
    marks.hear("k", "u/1", None, True)
    marks.advance(0, [])
    again = of(a=[], k=["u/0", "u/1"])
    again.restore(marks.marks, marks.idle_upstreams, marks.watermark)
    assert again.watermark == 300
    again.hear("k", "u/0", 400, False)
    assert again.advance(0, []) == 400


def test_the_time_of_a_restart_does_not_count() -> None:
    marks = of(a=[])
    marks.restore({"a": 50}, [], 50)
    later = Watermarks({"a": []}, TIMEOUT, 1_000_000)
    later.restore(marks.marks, marks.idle_upstreams, marks.watermark)
    assert later.advance(1_000_000 + TIMEOUT - 1, {"a"}) == 50
    assert later.advance(1_000_000 + TIMEOUT + 5, {"a"}) == 50
    assert later.advance(1_000_000 + TIMEOUT + 6, {"a"}) == 51


def test_marks_of_sources_that_are_gone_do_not_hold_it() -> None:
    marks = of(a=[])
    marks.restore({"a": 50, "gone": 10}, ["k<u/0"], 10)
    marks.observe("a", 60, 0)
    assert marks.advance(0, []) == 60
    assert marks.marks == {"a": 60}


# ---------------------------------------------------------------------- any history


@dataclass
class Model:
    """The rules, each looked up in the whole history."""

    plain: list[str]
    fed: dict[str, list[str]]
    history: list[tuple[Any, ...]] = field(default_factory=list)
    watermark: int | None = None
    idle: set[str] = field(default_factory=set)
    alone: tuple[int, int] | None = None

    def observed(self, topic: str) -> int | None:
        return max((e[2] for e in self.history if e[:2] == ("observe", topic)), default=None)

    def last_record(self, topic: str) -> int:
        kinds = ("observe", "seen")
        return max((e[-1] for e in self.history if e[0] in kinds and e[1] == topic), default=0)

    def said(self, topic: str, upstream: str) -> tuple[int | None, bool]:
        words = [e for e in self.history if e[:3] == ("hear", topic, upstream)]
        times = [e[3] for e in words if e[3] is not None]
        return max(times, default=None), bool(words) and words[-1][4]

    def advance(self, now: int, caught_up: set[str]) -> int | None:
        quiet = {t for t in caught_up if now - self.last_record(t) >= TIMEOUT}
        self.idle |= quiet & set(self.plain)
        marks = {t: (self.observed(t), t in self.idle) for t in self.plain}
        for topic, upstreams in self.fed.items():
            marks |= {f"{topic}<{u}": self.said(topic, u) for u in upstreams}
        values = [value for value, idle in marks.values() if not idle]
        target: int | None = None
        if values:
            self.alone = None
            known = [value for value in values if value is not None]
            target = min(known) if len(known) == len(values) else None
        elif quiet == {*self.plain, *self.fed}:
            if self.alone is None:
                ends = [value for value, _ in marks.values() if value is not None]
                ends += [] if self.watermark is None else [self.watermark]
                self.alone = (now, max(ends)) if ends else None
            if self.alone is not None:
                target = self.alone[1] + now - self.alone[0]
        if target is not None:
            self.watermark = target if self.watermark is None else max(self.watermark, target)
        return self.watermark

    def observe(self, topic: str, time: int, now: int) -> None:
        self.history.append(("observe", topic, time, now))
        self.idle.discard(topic)


PLAIN = ["a", "b"]
FED = {"k": ["u/0", "u/1"]}
TIMES = st.integers(0, 1000)
EVENTS = st.one_of(
    st.tuples(st.just("observe"), st.sampled_from(PLAIN), TIMES),
    st.tuples(st.just("seen"), st.sampled_from([*PLAIN, *FED])),
    st.tuples(
        st.just("hear"), st.just("k"), st.sampled_from(FED["k"]), st.none() | TIMES, st.booleans()
    ),
    st.tuples(st.just("advance"), st.sets(st.sampled_from([*PLAIN, *FED]))),
    st.tuples(st.just("advance"), st.just({*PLAIN, *FED})),
    st.tuples(st.just("wait"), st.integers(1, 2 * TIMEOUT)),
)


@QUICK
@given(
    st.sampled_from([(PLAIN, FED), (PLAIN[:1], {}), ([], FED)]),
    st.lists(EVENTS, max_size=40),
)
def test_any_history_comes_to_what_the_rules_say(
    sources: tuple[list[str], dict[str, list[str]]], events: list[tuple[Any, ...]]
) -> None:
    plain, fed = sources
    marks = Watermarks({**{topic: [] for topic in plain}, **fed}, TIMEOUT, 0)
    model = Model(plain, fed)
    now = 0
    last: int | None = None
    for kind, *arguments in events:
        if kind == "wait":
            now += arguments[0]
        elif kind == "advance":
            caught_up = arguments[0] & {*plain, *fed}
            found = marks.advance(now, caught_up)
            assert found == model.advance(now, caught_up) == marks.watermark
            assert last is None or (found is not None and found >= last)
            last = found
        elif arguments[0] not in {*plain, *fed}:
            continue
        elif kind == "observe":
            marks.observe(*arguments, now)
            model.observe(*arguments, now)
        elif kind == "seen":
            marks.seen(*arguments, now)
            model.history.append(("seen", *arguments, now))
        else:
            topic, upstream, time, idle = arguments
            marks.hear(topic, upstream, time, idle)
            model.history.append(("hear", topic, upstream, time, idle))


@QUICK
@given(st.lists(EVENTS, max_size=30))
def test_what_the_marker_keeps_is_all_that_marks_are(events: list[tuple[Any, ...]]) -> None:
    """A task restored from its marker has the same marks, and goes on the same way."""
    marks = of(a=[], b=[], k=["u/0", "u/1"])
    for kind, *arguments in events:
        if kind == "observe":
            marks.observe(*arguments, 0)
        elif kind == "hear":
            marks.hear(*arguments)
        elif kind == "advance":
            marks.advance(0, [])
    again = of(a=[], b=[], k=["u/0", "u/1"])
    again.restore(marks.marks, marks.idle_upstreams, marks.watermark)
    for known in (marks, again):
        known.observe("a", 2000, 0)
        known.observe("b", 1500, 0)
    assert again.advance(0, []) == marks.advance(0, [])
    assert (again.marks, again.idle_upstreams) == (marks.marks, marks.idle_upstreams)


@pytest.mark.parametrize("source", ["plain", "fed"])
def test_it_stands_still_while_something_is_known_to_come(source: str) -> None:
    """All idle, but a record was seen since: nothing may move before it is known what it is."""
    marks = of(a=[]) if source == "plain" else of(a=["u/0"])
    if source == "plain":
        marks.observe("a", 10, 0)
    else:
        marks.hear("a", "u/0", 10, True)
    before = marks.advance(TIMEOUT, {"a"})
    assert before == 10
    assert marks.advance(3 * TIMEOUT, set()) == 10
