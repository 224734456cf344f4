"""Faults on demand: what a real cluster shows once a year, a test gets when it asks.

A rule applies to the next `times` requests that match it, then it is spent. Rules of one kind are
used in the order in which they were given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kio.schema.errors import ErrorCode

from .protocol import BY_NAME

#: Whether a request is handled before its connection is dropped.
When = Literal["before", "after"]


@dataclass(slots=True)
class _Rule:
    times: int
    client: str | None
    error: ErrorCode = ErrorCode.none
    seconds: float = 0.0
    when: When = "before"


class Faults:
    """The faults of one broker. APIs go by their Kafka names, `client` by its client id."""

    def __init__(self) -> None:
        self._fail: dict[str, list[_Rule]] = {}
        self._delay: dict[str, list[_Rule]] = {}
        self._drop: dict[str, list[_Rule]] = {}
        self._refuse: dict[tuple[str, int], list[_Rule]] = {}

    def fail(
        self, api: str, error: ErrorCode | int, times: int = 1, client: str | None = None
    ) -> None:
        """Answer the next requests of an API with an error code, without handling them."""
        self._add(self._fail, api, _Rule(times, client, error=ErrorCode(error)))

    def delay(self, api: str, seconds: float, times: int = 1, client: str | None = None) -> None:
        """Handle the next requests of an API this much later."""
        if seconds < 0:
            raise ValueError(f"a delay of {seconds} seconds")
        self._add(self._delay, api, _Rule(times, client, seconds=seconds))

    def drop(
        self, api: str, times: int = 1, when: When = "before", client: str | None = None
    ) -> None:
        """Close the connection on the next requests of an API, before or after handling them."""
        if when not in ("before", "after"):
            raise ValueError(f"when={when!r}: 'before' or 'after'")
        self._add(self._drop, api, _Rule(times, client, when=when))

    def refuse_batch(
        self, topic: str, partition: int, error: ErrorCode | int, times: int = 1
    ) -> None:
        """Refuse the next batches that are produced to a partition; others are appended."""
        _check_times(times)
        rules = self._refuse.setdefault((topic, partition), [])
        rules.append(_Rule(times, None, error=ErrorCode(error)))

    def clear(self) -> None:
        """Forget all rules."""
        for rules in (self._fail, self._delay, self._drop):
            rules.clear()
        self._refuse.clear()

    # -- for the broker ------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether there may be a rule about whole requests."""
        return any(map(any, (self._fail.values(), self._delay.values(), self._drop.values())))

    def take_fail(self, api: str, client: str) -> ErrorCode | None:
        """Use up a `fail` rule, if one matches."""
        rule = _take(self._fail.get(api), client)
        return None if rule is None else rule.error

    def take_delay(self, api: str, client: str) -> float:
        """Use up a `delay` rule, if one matches; 0.0 otherwise."""
        rule = _take(self._delay.get(api), client)
        return 0.0 if rule is None else rule.seconds

    def take_drop(self, api: str, client: str) -> When | None:
        """Use up a `drop` rule, if one matches."""
        rule = _take(self._drop.get(api), client)
        return None if rule is None else rule.when

    def take_refusal(self, topic: str, partition: int) -> ErrorCode | None:
        """Use up a `refuse_batch` rule, if one matches."""
        if not self._refuse:
            return None
        rule = _take(self._refuse.get((topic, partition)), "")
        return None if rule is None else rule.error

    def _add(self, rules: dict[str, list[_Rule]], api: str, rule: _Rule) -> None:
        if api not in BY_NAME:
            raise ValueError(f"there is no API {api!r}; there are {', '.join(BY_NAME)}")
        _check_times(rule.times)
        rules.setdefault(api, []).append(rule)


def _check_times(times: int) -> None:
    if times < 1:
        raise ValueError(f"times={times}: at least once")


def _take(rules: list[_Rule] | None, client: str) -> _Rule | None:
    for rule in rules or ():
        if rule.client in (None, client):
            rule.times -= 1
            if not rule.times:
                assert rules is not None
                rules.remove(rule)
            return rule
    return None
