"""Windows and panes, against the definition: a window is `[k * step, k * step + size)`."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.state.windows import MAX_PANES, Window, WindowSpec, milliseconds
from tests.state.quick import QUICK

TIMES = st.integers(-200, 200)


@st.composite
def specs(draw: st.DrawFn) -> WindowSpec:
    size = draw(st.integers(1, 30))
    return WindowSpec(size, draw(st.integers(1, size)), draw(st.integers(0, 40)))


def every_window(spec: WindowSpec) -> list[Window]:
    """All windows far beyond the times that the tests use, oldest first."""
    return [Window(k * spec.step, k * spec.step + spec.size) for k in range(-500, 500)]


@QUICK
@given(specs(), TIMES)
def test_the_windows_of_a_time_are_those_that_hold_it(spec: WindowSpec, time: int):
    holding = [w for w in every_window(spec) if w.start <= time < w.end]
    assert spec.windows(time) == holding
    assert spec.newest(time) == holding[-1]


@QUICK
@given(specs(), TIMES)
def test_every_time_of_a_pane_is_in_the_same_windows(spec: WindowSpec, time: int):
    pane = spec.pane_of(time)
    assert pane <= time < pane + spec.pane
    assert spec.windows(pane) == spec.windows(time) == spec.windows(pane + spec.pane - 1)


@QUICK
@given(specs(), TIMES)
def test_panes_partition_their_window(spec: WindowSpec, time: int):
    window = spec.newest(time)
    covered = [t for pane in spec.panes(window) for t in range(pane, pane + spec.pane)]
    assert covered == list(range(window.start, window.end))


@QUICK
@given(specs(), TIMES)
def test_a_pane_is_over_when_its_last_window_ends(spec: WindowSpec, time: int):
    pane = spec.pane_of(time)
    assert spec.last_end(pane) == max(w.end for w in spec.windows(pane))


@QUICK
@given(specs(), TIMES)
def test_the_first_open_pane_is_the_least_that_is_not_over(spec: WindowSpec, watermark: int):
    first = spec.first_open(watermark)
    assert spec.pane_of(first) == first
    assert spec.last_end(first) > watermark >= spec.last_end(first - spec.pane)


@QUICK
@given(specs(), TIMES)
def test_the_next_end_is_the_least_beyond_a_time(spec: WindowSpec, time: int):
    assert spec.next_end(time) == min(w.end for w in every_window(spec) if w.end > time)


@QUICK
@given(specs(), TIMES, st.none() | TIMES, st.none() | TIMES)
def test_the_ends_of_a_pane_are_those_of_its_windows_between_two_times(
    spec: WindowSpec, time: int, after: int | None, until: int | None
):
    pane = spec.pane_of(time)
    expected = [
        w.end
        for w in spec.windows(pane)
        if (after is None or w.end > after) and (until is None or w.end <= until)
    ]
    assert list(spec.ends(pane, after, until)) == expected


def test_a_tumbling_window_is_one_pane():
    spec = WindowSpec(10, 10)
    assert spec.windows(-1) == [Window(-10, 0)]
    assert list(spec.panes(Window(-10, 0))) == [-10]
    assert not spec.overlapping


def test_hopping_windows_overlap():
    spec = WindowSpec(30, 10)
    assert spec.overlapping
    assert spec.windows(0) == [Window(-20, 10), Window(-10, 20), Window(0, 30)]


@pytest.mark.parametrize(
    ("size", "step", "keep", "says"),
    [
        (0, 1, 0, "at least 1 ms"),
        (1, 0, 0, "at least 1 ms"),
        (-5, 5, 0, "at least 1 ms"),
        (10, 11, 0, "make the step at most the size"),
        (10, 5, -1, "at least 0"),
        (MAX_PANES + 1, 1, 0, "choose a size that is a multiple of the step"),
        (3_600_000, 7, 0, "panes of 1 ms"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(size: int, step: int, keep: int, says: str):
    with pytest.raises(ValueError, match=says):
        WindowSpec(size, step, keep)


def test_as_many_panes_as_allowed_are_allowed():
    assert len(WindowSpec(MAX_PANES, 1).panes(Window(0, MAX_PANES))) == MAX_PANES


def test_durations_are_seconds_or_timedeltas():
    assert milliseconds(1.5) == milliseconds(timedelta(seconds=1.5)) == 1500
    assert milliseconds(0.0014) == 1
