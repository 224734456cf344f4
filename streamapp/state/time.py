"""Event time: where it comes from, and how far it has come.

A *watermark* says: no record older than this is expected any more. It belongs to a source
partition (the highest event time seen, less the grace); a task's watermark is the least of its
partitions that are not idle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["EventTime", "EventTimes", "event_time_of", "event_times_of", "least", "to_milliseconds"]

#: Takes a decoded value, returns its event time as milliseconds since the epoch.
EventTime = Callable[[Any], int]
#: The same for many values at once; raises when one of them has none.
EventTimes = Callable[[Sequence[Any]], list[int]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: Times are stored in 8 bytes, and windows end later than their records.
_LIMIT = 1 << 62


def to_milliseconds(value: Any) -> int:
    """Return an event time as integer milliseconds.

    An int is taken as milliseconds, a float as seconds (rounded), a datetime without a zone as
    UTC (cut to the millisecond that it is in), a string as ISO 8601.

    Raises:
        TypeError: it is none of these.
        ValueError: a string that is no ISO 8601 time, or a number that is no time.
    """
    if type(value) is int:
        if -_LIMIT < value < _LIMIT:
            return value
        raise ValueError(f"an event time of {value} ms is out of range")
    if isinstance(value, float):
        if math.isfinite(value):
            return to_milliseconds(round(value * 1000))
        raise ValueError(f"{value} is no event time")
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MILLISECOND
    raise TypeError(
        f"an event time is an int (ms), a float (s), a datetime or ISO 8601, not {value!r}"
    )


def event_time_of(source: str | Callable[[Any], Any] | None) -> EventTime | None:
    """Return the function that finds a value's event time; `None` means the record's timestamp.

    `source` is the name of a field (of an object or a mapping), or a function of the value.
    """
    if source is None:
        return None
    if callable(source):
        return lambda value: to_milliseconds(source(value))

    def of_field(value: Any) -> int:
        found = value[source] if isinstance(value, dict) else getattr(value, source)
        return to_milliseconds(found)

    return of_field


def event_times_of(source: str | Callable[[Any], Any] | None) -> EventTimes | None:
    """Return the function that finds the event times of many values: see `event_time_of`.

    A field that holds milliseconds in objects takes a short way.
    """
    find = event_time_of(source)
    if find is None:
        return None

    def one_by_one(values: Sequence[Any]) -> list[int]:
        return [find(value) for value in values]

    if not isinstance(source, str):
        return one_by_one

    def of_field(values: Sequence[Any]) -> list[int]:
        try:
            times = [getattr(value, source) for value in values]
        except AttributeError:
            return one_by_one(values)
        if {*map(type, times)} == {int} and min(times) > -_LIMIT and max(times) < _LIMIT:
            return times
        return one_by_one(values)

    return of_field


def least(watermarks: Iterable[int | None]) -> int | None:
    """Return the least watermark, or `None` when one of them is not known yet or there is none."""
    result: int | None = None
    for watermark in watermarks:
        if watermark is None:
            return None
        if result is None or watermark < result:
            result = watermark
    return result
