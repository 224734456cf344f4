"""What was fetched is handed out in slices whose ranges meet, each with what is lost within it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.engine.buffer import Buffer
from streamapp.engine.checkpoint import Slice
from tests.engine.tasks import Record
from tests.state.quick import QUICK

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 5)),
        st.tuples(st.just("control"), st.integers(1, 3)),
        st.tuples(st.just("jump"), st.integers(1, 9)),
        st.tuples(st.just("take"), st.integers(1, 6)),
    ),
    max_size=30,
)


@settings(QUICK)
@given(ACTIONS)
def test_each_offset_is_in_a_slice_or_lost_in_one(actions: list[tuple[str, int]]) -> None:
    buffer = Buffer(100)
    position = 100
    fed: list[int] = []
    lost: set[int] = set()
    slices: list[Slice] = []
    for action, count in [*actions, ("feed", 1), ("take", 1000)]:
        after = range(position, position + count)
        if action == "take":
            slices.append(buffer.take("events", count))
            continue
        position = after.stop
        if action == "jump":
            buffer.jump(after.start, after.stop)
            lost.update(after)
            continue
        if action == "feed":
            buffer.records.extend(Record(offset) for offset in after)
            fed += after
        buffer.until = position

    assert [record.offset for part in slices for record in part.records] == fed
    assert slices[0].from_offset == 100
    assert slices[-1].until_offset == position
    for before, part in pairwise(slices):
        assert part.from_offset == before.until_offset
    for part in slices:
        for begin, end in part.lost:
            assert part.from_offset <= begin < end <= part.until_offset
    assert [o for part in slices for gone in part.lost for o in range(*gone)] == sorted(lost)
