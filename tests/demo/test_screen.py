"""The demo's view, drawn without a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from streamapp.demo.log_screen import LogScreen, stacked_bar
from streamapp.demo.log_tally import LogTally, WindowCounts
from streamapp.demo.screen import export_svg
from streamapp.demo.trail import Trail, sparkline

DAY = 24 * 3600 * 1000


def counts(start: int, **modules: int) -> WindowCounts:
    return WindowCounts(start, start + 30_000, {"*": sum(modules.values()), **modules})


def screen(*windows: WindowCounts) -> LogScreen:
    tally = LogTally()
    tally.windows = {window.start: window for window in windows}
    tally.highest = max((window.total for window in windows), default=0)
    tally.modules = sorted({module for window in windows for module in window.by_module})
    return LogScreen(tally, "some.log", 1_000, 0.0)


def drawn(view: LogScreen, width: int, height: int) -> list[str]:
    console = Console(width=width, file=StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(view.draw(width, height))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("height", [20, 24, 40])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_the_terminal(width: int, height: int):
    windows = [counts(start * 10_000, mod_jk=start, client=3) for start in range(100)]
    view = screen(*windows)
    view.note, view.hint = "A note.", "A hint"
    view.tally.watermark = DAY
    lines = drawn(view, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("A note.")
    assert "…" not in "".join(lines)


def test_the_newest_window_is_on_top_with_its_modules_the_most_errors_first():
    lines = drawn(screen(counts(0, client=9), counts(10_000, client=2, mod_jk=5)), 100, 30)
    [newest] = [index for index, line in enumerate(lines) if line.startswith("00:00:10")]
    assert lines[newest].split("▆")[0].split() == [
        *("00:00:10", "\N{EN DASH}", "00:00:40"),
        *("open", "7"),
    ]
    assert lines[newest].endswith("mod_jk 5  client 2")
    assert lines[newest + 1].startswith("00:00:00")


def test_modules_without_room_are_counted():
    many = {f"mod_{letter * 8}": 5 for letter in "abcdefgh"}
    [line] = [line for line in drawn(screen(counts(0, **many)), 100, 30) if "mod_aaaaaaaa" in line]
    shown = line.count("mod_")
    assert line.endswith(f"+{len(many) - shown}")


def test_windows_of_another_date_stand_below_it():
    lines = drawn(screen(counts(0, client=1), counts(3 * DAY, client=1)), 100, 30)
    [title] = [index for index, line in enumerate(lines) if line.startswith("04 Jan 1970, UTC")]
    newest, date, oldest = lines[title + 2 : title + 5]
    assert newest.startswith("00:00:00")
    assert date == "01 Jan 1970"
    assert oldest.startswith("00:00:00")


@pytest.mark.parametrize(("total", "length"), [(0, 0), (1, 1), (50, 10), (99, 20), (100, 20)])
def test_a_bar_is_scaled_to_the_highest_window(total: int, length: int):
    bar = stacked_bar(counts(0, client=total), {}, highest=100, width=20)
    assert len(bar) == length


def test_the_segments_of_a_bar_add_up_to_its_length():
    window = counts(0, a=1, b=1, c=1, d=97)
    assert len(stacked_bar(window, {"a": "red", "d": "blue"}, highest=100, width=20)) == 20


def test_a_sparkline_is_scaled_to_its_highest_value_and_ends_with_the_latest():
    assert sparkline([0.0, 5.0, 10.0], 5) == "  ▁▅█"
    assert sparkline([9.0, 0.0, 0.0], 2) == "▁▁"
    assert sparkline([], 3) == "   "


def test_a_trail_tells_the_pace_of_each_interval():
    trail = Trail(total=100, now=0.0)
    trail.beat(total=150, now=1.0)
    trail.beat(total=350, now=3.0)
    assert list(trail.rates) == [50.0, 100.0]
    assert trail.rate == 100.0


def test_an_image_of_it_is_an_svg():
    assert export_svg(screen(counts(0, client=1))).startswith("<svg")
