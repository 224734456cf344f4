"""Aggregations: merging parts in any grouping gives what adding everything gives."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.state.aggregates import Aggregate, Count, Max, Mean, Min, Sum, TopK
from streamapp.state.codecs import codec_for
from tests.state.quick import QUICK

NUMBERS = st.lists(st.integers(-1000, 1000))
ALL = pytest.mark.parametrize(
    "aggregate", [Sum(), Count(), Min(), Max(), Mean()], ids=lambda a: type(a).__name__
)


def accumulated(aggregate: Aggregate, values: list[int]) -> Any:
    accumulator = aggregate.zero()
    for value in values:
        accumulator = aggregate.add(accumulator, value)
    return accumulator


def computed(aggregate: Aggregate, values: list[int]) -> Any:
    match aggregate:
        case Sum():
            return sum(values)
        case Min():
            return min(values, default=None)
        case Max():
            return max(values, default=None)
        case Mean():
            return sum(values) / len(values) if values else None
    raise AssertionError(aggregate)


@ALL
@QUICK
@given(values=NUMBERS)
def test_the_result_is_that_of_a_direct_computation(aggregate: Aggregate, values: list[int]):
    assert aggregate.result(accumulated(aggregate, values)) == computed(aggregate, values)


@ALL
@QUICK
@given(a=NUMBERS, b=NUMBERS, c=NUMBERS)
def test_merging_is_associative_and_equals_adding(
    aggregate: Aggregate, a: list[int], b: list[int], c: list[int]
):
    left, middle, right = (accumulated(aggregate, part) for part in (a, b, c))
    whole = accumulated(aggregate, a + b + c)
    assert aggregate.merge(aggregate.merge(left, middle), right) == whole
    assert aggregate.merge(left, aggregate.merge(middle, right)) == whole


@ALL
@QUICK
@given(values=NUMBERS)
def test_zero_is_neutral(aggregate: Aggregate, values: list[int]):
    accumulator = accumulated(aggregate, values)
    assert aggregate.merge(aggregate.zero(), accumulator) == accumulator
    assert aggregate.merge(accumulator, aggregate.zero()) == accumulator


@ALL
@QUICK
@given(a=NUMBERS, b=NUMBERS)
def test_arguments_are_left_as_they_are(aggregate: Aggregate, a: list[int], b: list[int]):
    left, right = accumulated(aggregate, a), accumulated(aggregate, b)
    aggregate.merge(left, right)
    aggregate.add(left, 1)
    assert left == accumulated(aggregate, a)
    assert right == accumulated(aggregate, b)


@ALL
@QUICK
@given(values=NUMBERS)
def test_accumulators_survive_the_store(aggregate: Aggregate, values: list[int]):
    codec = codec_for()
    accumulator = accumulated(aggregate, values)
    assert codec.decode(codec.encode(accumulator)) == accumulator


@ALL
def test_each_is_an_aggregate(aggregate: Aggregate):
    assert isinstance(aggregate, Aggregate)


@pytest.mark.parametrize("values", [[None, 2, 1], [2, None, 1], [2, 1, None]])
def test_extremes_pass_over_none_wherever_it_comes(values: list[Any]):
    assert accumulated(Min(), values) == 1
    assert accumulated(Max(), values) == 2


ROWS = st.dictionaries(st.text(max_size=3), st.integers(-3, 3)).map(
    lambda scores: [[score, name] for name, score in scores.items()]
)


@QUICK
@given(rows=ROWS, cut=st.integers(0, 10), k=st.integers(1, 5))
def test_the_top_rows_are_those_of_all_however_they_are_split(
    rows: list[list[Any]], cut: int, k: int
):
    top = TopK(k)
    merged = top.merge(accumulated(top, rows[:cut]), accumulated(top, rows[cut:]))
    assert merged == sorted(rows, key=lambda row: (-row[0], row[1]))[:k]
    assert top.merge(top.zero(), merged) == merged


def test_a_top_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 row"):
        TopK(0)
