"""Aggregations: how the records of a window become one value.

An aggregation keeps an *accumulator* a key and pane. Accumulators of two panes, or of two tasks
that each saw a part of the records, are merged; so `merge` must be associative, with `zero()` as
its neutral element. Accumulators are stored as JSON. They are kept and read again, so `add` and
`merge` return a new one and leave their arguments as they are.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import Any, Protocol, runtime_checkable

__all__ = ["Aggregate", "Count", "Max", "Mean", "Min", "Sum", "TopK"]


@runtime_checkable
class Aggregate(Protocol):
    """What a windowed table does with the values that are added to it."""

    #: The accumulator is a number and adding is `+`: the tables take a shorter way.
    additive: bool

    def zero(self) -> Any:
        """Return the accumulator of no record."""

    def add(self, accumulator: Any, value: Any) -> Any:
        """Return the accumulator with one more value in it."""

    def merge(self, left: Any, right: Any) -> Any:
        """Return the accumulator of both parts together."""

    def result(self, accumulator: Any) -> Any:
        """Return what readers see of an accumulator."""


class Sum:
    """The sum of what is added."""

    additive = True

    def zero(self) -> Any:
        return 0

    def add(self, accumulator: Any, value: Any) -> Any:
        return accumulator + value

    def merge(self, left: Any, right: Any) -> Any:
        return left + right

    def result(self, accumulator: Any) -> Any:
        return accumulator


class Count(Sum):
    """How many there are: `table[key] += 1` a record, or `+= n` for n of them."""


class _Extreme:
    additive = False

    def zero(self) -> Any:
        return None

    def _pick(self, left: Any, right: Any) -> Any:
        raise NotImplementedError

    def add(self, accumulator: Any, value: Any) -> Any:
        return self.merge(accumulator, value)

    def merge(self, left: Any, right: Any) -> Any:
        if left is None:
            return right
        return left if right is None else self._pick(left, right)

    def result(self, accumulator: Any) -> Any:
        return accumulator


class Min(_Extreme):
    """The least value, or `None` of no record; a value of `None` does not count."""

    def _pick(self, left: Any, right: Any) -> Any:
        return min(left, right)


class Max(_Extreme):
    """The greatest value, or `None` of no record; a value of `None` does not count."""

    def _pick(self, left: Any, right: Any) -> Any:
        return max(left, right)


class Mean:
    """The arithmetic mean, or `None` of no record; the accumulator is `[sum, count]`."""

    additive = False

    def zero(self) -> Any:
        return [0, 0]

    def add(self, accumulator: Any, value: Any) -> Any:
        return [accumulator[0] + value, accumulator[1] + 1]

    def merge(self, left: Any, right: Any) -> Any:
        return [left[0] + right[0], left[1] + right[1]]

    def result(self, accumulator: Any) -> Any:
        total, count = accumulator
        return total / count if count else None


class TopK:
    """The `k` rows with the highest scores, the highest first.

    A row is a list that begins with its score and its name, `[score, name, …]`; rows of one score
    are in the order of their names, so that the result is one whatever the order they came in. A
    name is to be added once: what is said of it in two places has to be added up beforehand.

    Raises:
        ValueError: `k` is less than 1.
    """

    additive = False

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"TopK keeps at least 1 row, not {k}")
        self.k = k

    def zero(self) -> Any:
        return []

    def add(self, accumulator: Any, value: Any) -> Any:
        return self.merge(accumulator, [value])

    def merge(self, left: Any, right: Any) -> Any:
        return nsmallest(self.k, [*left, *right], key=lambda row: (-row[0], row[1]))

    def result(self, accumulator: Any) -> Any:
        return accumulator
