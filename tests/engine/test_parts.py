"""Parts of a batch: nothing is lost between them, their ranges meet, and the suspect is alone."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.checkpoint import Slice
from streamapp.engine.key_by import UpstreamMark, mark_record
from streamapp.engine.parts import Fault, Part, condemned_batch, condemned_record, suspected
from tests.engine.tasks import Record
from tests.state.quick import QUICK

ERROR = ValueError("bad")


def a_mark(offset: int) -> Record:
    mark = mark_record("t", 0, UpstreamMark("up/0", 5, False), 0)
    return Record(offset, 0, None, None, mark.headers)


@st.composite
def slices(draw: st.DrawFn) -> list[Slice]:
    """Slices of up to three topics, with gaps where control records are, with marks, and with losses."""
    found = []
    for topic in draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True)):
        begin = offset = draw(st.integers(0, 5))
        records, lost = [], []
        for kind in draw(st.lists(st.sampled_from(["record", "mark", "gap", "lost"]), max_size=8)):
            if kind == "lost":
                lost.append((offset, offset + 1))
            elif kind != "gap":
                records.append(
                    Record(offset, 0, b"k", b"v") if kind == "record" else a_mark(offset)
                )
            offset += 1
        found.append(Slice(topic, begin, offset, records, lost))
    return found


def names(part: Part) -> list[tuple[str, int]]:
    return [(s.topic, r.offset) for s in part.slices for r in s.records if r.value is not None]


def check_nothing_is_lost(whole: list[Slice], parts: list[Part]) -> None:
    for one in whole:
        pieces = [piece for part in parts for piece in part.slices if piece.topic == one.topic]
        assert pieces[0].from_offset == one.from_offset
        assert pieces[-1].until_offset == one.until_offset
        assert all(a.until_offset == b.from_offset for a, b in pairwise(pieces))
        assert [r for piece in pieces for r in piece.records] == list(one.records)
        for piece in pieces:
            inside = range(piece.from_offset, piece.until_offset)
            assert all(record.offset in inside for record in piece.records)
            assert all(begin in inside and end - 1 in inside for begin, end in piece.lost)
        assert [gone for piece in pieces for gone in piece.lost] == list(one.lost)
    order = [
        (piece.topic, r.offset) for part in parts for piece in part.slices for r in piece.records
    ]
    assert order == [(one.topic, r.offset) for one in whole for r in one.records]


@QUICK
@given(slices(), st.data())
def test_the_suspect_is_alone_and_nothing_is_lost(whole: list[Slice], data: st.DataObject) -> None:
    part = Part(whole)
    places = names(part)
    if not places:
        return
    suspect = data.draw(st.sampled_from(places))
    parts = suspected(part, Fault(ERROR, None, *suspect))
    check_nothing_is_lost(whole, parts)
    assert [suspect] in [names(p) for p in parts]
    assert all(names(p) for p in parts), "a part without records is a transaction for nothing"
    assert len(parts) <= 3
    assert all(p.again for p in parts)


@QUICK
@given(slices())
def test_without_a_suspect_it_is_halved(whole: list[Slice]) -> None:
    part = Part(whole)
    count = len(names(part))
    parts = suspected(part, Fault(ERROR, None, "a", None))
    check_nothing_is_lost(whole, parts)
    halves = [len(names(p)) for p in parts]
    assert halves == ([count // 2, count - count // 2] if count > 1 else [count])


def test_a_batch_is_condemned_without_what_came_from_other_topics() -> None:
    whole = [Slice(t, 0, 1, [Record(0, 0, None, b"v")]) for t in "abc"]
    parts = condemned_batch(Part(whole, again=True), Fault(ERROR, None, "b", 0))
    check_nothing_is_lost(whole, parts)
    assert [p.condemned is not None for p in parts] == [False, True, False]


def test_a_record_is_condemned_in_the_range_of_its_batch() -> None:
    whole = [
        Slice("a", 3, 9, [Record(4, 0, None, b"v"), Record(7, 0, None, b"w")]),
        Slice("b", 0, 2, [Record(0, 0, None, b"x")]),
    ]
    part = condemned_record(Part(whole), Fault(ERROR, None, "a", 7))
    assert part is not None
    assert names(part) == [("a", 7)]
    assert [(s.from_offset, s.until_offset) for s in part.slices] == [(3, 9), (0, 2)]
    assert condemned_record(Part(whole), Fault(ERROR, None, "a", None)) is None
