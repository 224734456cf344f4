"""Event time: what is taken for one, and the least of several watermarks."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.state.time import event_time_of, event_times_of, least, to_milliseconds
from tests.state.quick import QUICK


@dataclass
class Line:
    at: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000_123, 1_700_000_000_123),
        (-5, -5),
        (1_700_000_000.123, 1_700_000_000_123),
        (0.57, 570),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1000),
        (datetime(1970, 1, 1, 0, 0, 1), 1000),  # noqa: DTZ001
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        ("2005-07-22T11:04:05Z", 1_122_030_245_000),
        ("2005-07-22 11:04:05", 1_122_030_245_000),
        ("2005-07-22T13:04:05+02:00", 1_122_030_245_000),
    ],
)
def test_a_time_becomes_milliseconds_since_the_epoch(value: Any, expected: int):
    assert to_milliseconds(value) == expected


@QUICK
@given(st.datetimes(timezones=st.just(UTC)))
def test_a_datetime_belongs_to_the_millisecond_it_is_in(value: datetime):
    epoch, millisecond = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
    start = epoch + to_milliseconds(value) * millisecond
    assert timedelta(0) <= value - start < millisecond


@pytest.mark.parametrize("value", [None, b"1", True, [1]])
def test_other_types_are_no_time(value: Any):
    with pytest.raises(TypeError, match="an event time is"):
        to_milliseconds(value)


@pytest.mark.parametrize(
    "value", ["yesterday", 1 << 62, -1 << 62, 1e300, float("inf"), float("-inf"), float("nan")]
)
def test_a_value_that_is_no_time_is_refused(value: Any):
    with pytest.raises(ValueError, match=r"out of range|no event time|isoformat"):
        to_milliseconds(value)


def test_event_time_is_the_records_own_unless_told():
    assert event_time_of(None) is None


@pytest.mark.parametrize("value", [{"at": 1.5}, Line(1.5), Line(1500)])
def test_event_time_is_a_field_of_a_mapping_or_an_object(value: Any):
    of = event_time_of("at")
    assert of is not None
    assert of(value) == 1500


def test_event_time_is_what_a_function_says():
    of = event_time_of(lambda value: value.at + 1.0)
    assert of is not None
    assert of(Line(1.5)) == 2500


@QUICK
@given(
    st.lists(
        st.sampled_from(
            [{"at": 1.5}, Line(1.5), Line(1500), Line(-2), Line(True), Line(1 << 62), Line("x"), 7]
        )
    )
)
def test_many_event_times_are_those_of_the_values_one_by_one(values: list[Any]):
    one, many = event_time_of("at"), event_times_of("at")
    assert one is not None
    assert many is not None
    try:
        expected = [one(value) for value in values]
    except Exception as error:
        with pytest.raises(type(error)):
            many(values)
    else:
        assert many(values) == expected


def test_a_field_out_of_range_is_refused():
    of = event_time_of("at")
    assert of is not None
    with pytest.raises(ValueError, match="out of range"):
        of(Line(10**30))


@pytest.mark.parametrize(
    ("watermarks", "expected"),
    [([], None), ([3], 3), ([3, -1, 2], -1), ([3, None], None), ([None, 3], None), ([0, 5], 0)],
)
def test_the_least_watermark_is_unknown_while_one_is(
    watermarks: list[int | None], expected: int | None
):
    assert least(watermarks) == expected
