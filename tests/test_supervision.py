"""Supervision: the directive fits the error, pauses grow, and a budget ends it."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.supervision import (
    Backoff,
    Budget,
    Directive,
    Failure,
    RestartsExhausted,
    Supervision,
)


class Hands:
    """Time that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Work:
    """Fails with each of the given errors in turn, then returns how often it was run."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.runs


@pytest.fixture
def hands() -> Hands:
    return Hands()


def supervision(hands: Hands, *args: object, **options: object) -> Supervision:
    options = {"chance": lambda: 0.0, **options}
    return Supervision(*args, monotonic=hands.monotonic, sleep=hands.sleep, **options)  # type: ignore[arg-type]


async def test_what_ends_well_is_not_run_again(hands: Hands):
    assert await supervision(hands).supervise(Work(), "it") == 1


async def test_a_restart_lets_go_pauses_and_runs_anew(hands: Hands):
    events: list[object] = []
    work = Work(OSError("gone"), OSError("gone"))
    result = await supervision(hands).supervise(
        work, "it", restart=lambda: events.append("let go"), on_failure=events.append
    )
    assert result == 3
    assert [type(event) for event in events] == [Failure, str, Failure, str]
    assert hands.slept == [0.1, 0.2]


async def test_a_resumption_keeps_what_there_is_and_does_not_pause(hands: Hands):
    def never() -> None:
        raise AssertionError

    work = Work(ValueError("bad line"))
    chosen = supervision(hands, {ValueError: Directive.RESUME})
    assert await chosen.supervise(work, "it", restart=never) == 2
    assert hands.slept == []


async def test_stopped_work_ends_without_an_error(hands: Hands):
    work = Work(ValueError("closed for good"))
    assert await supervision(hands, {ValueError: Directive.STOP}).supervise(work, "it") is None
    assert work.runs == 1


async def test_an_escalated_error_is_the_one_that_was_raised(hands: Hands):
    error = PermissionError("401")
    with pytest.raises(PermissionError) as raised:
        await supervision(hands, {PermissionError: Directive.ESCALATE}).supervise(Work(error), "it")
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "directive"),
    [
        (ConnectionResetError(), Directive.RESUME),
        (ConnectionRefusedError(), Directive.RESTART),
        (FileNotFoundError(), Directive.STOP),
        (KeyError(), Directive.ESCALATE),
    ],
)
def test_the_most_specific_class_wins(error: Exception, directive: Directive):
    chosen = Supervision(
        {
            OSError: Directive.STOP,
            ConnectionError: Directive.RESTART,
            ConnectionResetError: Directive.RESUME,
        },
        Directive.ESCALATE,
    )
    assert chosen.directive(error) is directive


async def test_cancellation_is_never_touched(hands: Hands):
    work = Work(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await supervision(hands, {Exception: Directive.RESUME}).supervise(work, "it")
    assert work.runs == 1


async def test_a_spent_budget_escalates_and_names_the_last_error(hands: Hands):
    work = Work(*(OSError(f"no. {number}") for number in range(100)))
    with pytest.raises(RestartsExhausted, match=r"it failed again after 10 .*no\. 10") as raised:
        await supervision(hands).supervise(work, "it")
    assert work.runs == 11
    assert isinstance(raised.value.__cause__, OSError)


async def test_resumptions_spend_the_budget_too(hands: Hands):
    work = Work(*(ValueError() for _ in range(100)))
    with pytest.raises(RestartsExhausted):
        await supervision(hands, {ValueError: Directive.RESUME}).supervise(work, "it")
    assert work.runs == 11


async def test_failures_far_apart_neither_escalate_nor_wait_long(hands: Hands):
    class Slow(Work):
        async def __call__(self) -> int:
            hands.now += 61.0
            return await super().__call__()

    work = Slow(*(OSError() for _ in range(100)))
    assert await supervision(hands).supervise(work, "it") == 101
    assert set(hands.slept) == {0.1}


@given(
    gaps=st.lists(st.floats(0, 30, allow_nan=False), max_size=60),
    most=st.integers(0, 5),
    within=st.floats(0.5, 60),
)
def test_the_budget_is_that_of_a_sliding_window(gaps: list[float], most: int, within: float):
    budget = Budget(most, within)
    now, granted = 0.0, list[float]()
    for gap in gaps:
        now += gap
        recent = [at for at in granted if now - at < within]
        assert budget.spent(now) == len(recent)
        allowed = len(recent) < most
        assert budget.spend(now) is allowed
        if allowed:
            granted.append(now)
    assert all(in_any_window(granted, at, within) <= most for at in granted)


def in_any_window(granted: Sequence[float], end: float, within: float) -> int:
    return sum(1 for at in granted if at <= end and end - at < within)


@given(
    failures=st.integers(0, 10_000),
    chance=st.floats(0, 1, exclude_max=True),
    jitter=st.floats(0, 1),
)
def test_a_pause_is_within_its_bounds(failures: int, chance: float, jitter: float):
    delay = Backoff(0.1, 5.0, jitter).delay(failures, chance)
    whole = min(5.0, 0.1 * 2 ** min(failures, 20))
    assert whole * (1 - jitter) <= delay <= whole


@pytest.mark.parametrize("settings", [(-1, 60.0), (10, 0.0), (10, -1.0)])
def test_a_budget_that_makes_no_sense_is_refused(settings: tuple[int, float]):
    with pytest.raises(ValueError, match="makes no sense"):
        Budget(*settings)


@pytest.mark.parametrize("settings", [(0.0, 5.0, 0.5), (2.0, 1.0, 0.5), (0.1, 5.0, 1.5)])
def test_pauses_that_make_no_sense_are_refused(settings: tuple[float, float, float]):
    with pytest.raises(ValueError, match="make no sense"):
        Backoff(*settings)
