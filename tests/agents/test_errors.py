"""Error counts in hopping windows, against counting them by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agents.errors import count_errors, find_errors
from streamapp import WindowRecord, app
from streamapp.logs import LogLine, decode_log_line
from streamapp.sample_logs import generate
from streamapp.testing import AppTest
from streamapp.topics import error_windows, log_lines
from tables.errors import ALL, error_counts, errors

SIZE, STEP = 30_000, 10_000
#: Idle partitions and 30 s windows, and then some.
LONG = 120

APACHE_LOG = Path(__file__).parents[2].parent / "shared" / "data" / "Apache_2k.log"

Counts = dict[tuple[str, int], int]


@pytest.fixture
async def t() -> AsyncIterator[AppTest]:
    async with app.test(agents=[find_errors, count_errors]) as t:
        yield t


def line(second: float, module: str = "mod_jk", level: str = "error") -> bytes:
    time = datetime(2005, 12, 4, tzinfo=UTC) + timedelta(seconds=second)
    return f"[{time:%a %b %d %H:%M:%S} 2005] [{level}] {module} child in error state 6".encode()


def start(second: float) -> int:
    return round((datetime(2005, 12, 4, tzinfo=UTC).timestamp() + second) * 1000)


def by_hand(lines: Iterable[LogLine]) -> Counts:
    """Look at each window that a line is in, one by one."""
    counts: Counter[tuple[str, int]] = Counter()
    for found in lines:
        if found.level == "error":
            newest = found.time // STEP * STEP
            for begin in range(newest - SIZE + STEP, newest + STEP, STEP):
                assert begin <= found.time < begin + SIZE
                counts[found.module, begin] += 1
                counts[ALL, begin] += 1
    return dict(counts)


def results(t: AppTest, *, final: bool) -> list[WindowRecord]:
    return [record.value for record in t.output(error_windows) if record.value.final is final]


def final_counts(t: AppTest) -> Counts:
    found = results(t, final=True)
    counts = {(record.key, record.start): record.value for record in found}
    assert len(counts) == len(found), "a window of a key is final once"
    assert all(record.end == record.start + SIZE for record in found)
    return counts


async def send_all(t: AppTest, lines: Iterable[bytes]) -> None:
    async with t.batch():
        for raw in lines:
            await t.send(log_lines, raw)


async def test_an_error_is_in_three_windows_by_module_and_in_all(t: AppTest) -> None:
    await t.send(log_lines, line(5))
    expected = {(key, start(begin)): 1 for key in ("mod_jk", ALL) for begin in (-20, -10, 0)}
    found = {(record.key, record.start): record.value for record in results(t, final=False)}
    assert found == expected
    await t.advance(LONG)
    assert final_counts(t) == expected


async def test_only_errors_count(t: AppTest) -> None:
    await send_all(t, [line(1, level="notice"), line(2, level="warn"), line(3)])
    assert error_counts.value("mod_jk", at=start(3)) == 1
    assert error_counts.value(ALL, at=start(3)) == 1


async def test_the_total_is_over_all_partitions(t: AppTest) -> None:
    for partition in range(4):
        await t.send(log_lines, line(5, f"mod_{partition}"), partition=partition)
    assert error_counts.value(ALL, at=start(5)) == 4
    assert error_counts.value("mod_2", at=start(5)) == 1


async def test_many_lines_travel_as_few_records(t: AppTest) -> None:
    async with t.batch():
        for number in range(400):
            await t.send(log_lines, line(number % 20), partition=0)
    sent = sorted((record.key, record.timestamp, record.value) for record in t.output(errors))
    assert sent == [(key, start(pane), 200) for key in (ALL, "mod_jk") for pane in (0, 10)]


async def test_lines_out_of_order_within_the_grace_count(t: AppTest) -> None:
    for second in (12, 8, 14.9, 10, 9.9):
        await t.send(log_lines, line(second), partition=0)
    await t.advance(LONG)
    assert t.late == 0
    assert final_counts(t)[ALL, start(0)] == 5
    assert final_counts(t)[ALL, start(-20)] == 2


async def test_a_line_after_its_last_window_was_closed_is_late(t: AppTest) -> None:
    for partition in range(4):
        await t.send(log_lines, line(100), partition=partition)
    closed = final_counts(t)
    # The watermark is at 95: the last window of second 9 ended at 30.
    await t.send(log_lines, line(9), partition=0)
    assert t.late == 2, "for its module and for all"
    await t.advance(LONG)
    assert {key: n for key, n in final_counts(t).items() if key in closed} == closed
    assert start(0) not in {begin for _, begin in final_counts(t)}


async def test_a_line_of_which_a_window_is_open_still_counts_there(t: AppTest) -> None:
    for partition in range(4):
        await t.send(log_lines, line(100), partition=partition)
    # [60, 90) is closed at 95; [70, 100) and [80, 110) are open.
    await t.send(log_lines, line(85), partition=0)
    await t.advance(LONG)
    found = final_counts(t)
    assert t.late == 0
    assert (ALL, start(60)) not in found
    assert (found[ALL, start(70)], found[ALL, start(80)]) == (1, 5)


async def test_one_slow_partition_holds_the_windows_of_all(t: AppTest) -> None:
    await t.send(log_lines, line(1), partition=0)
    for partition in (1, 2, 3):
        await t.send(log_lines, line(500), partition=partition)
    assert final_counts(t) == {}
    await t.send(log_lines, line(500), partition=0)
    assert final_counts(t)[ALL, start(0)] == 1


async def test_lines_that_are_none_are_dead_letters_and_the_rest_goes_on(t: AppTest) -> None:
    bad = [b"", b"nonsense", b"[Sun Dec 04 04:47:44 2005] error", b"\xff" * 50]
    async with t.batch():
        for raw in bad:
            await t.send(log_lines, line(5), partition=2)
            await t.send(log_lines, raw, partition=2)
        await t.send(log_lines, line(5), partition=2)
    assert error_counts.value(ALL, at=start(5)) == 5
    assert [(d.topic, d.partition, d.offset, d.value) for d in t.dead_letters] == [
        ("log-lines", 2, 2 * number + 1, raw) for number, raw in enumerate(bad)
    ]
    assert all("not a line of an Apache error log" in letter.error for letter in t.dead_letters)


@pytest.mark.parametrize("seed", range(3))
async def test_a_generated_log_counts_as_by_hand_with_restarts_and_crashes(
    t: AppTest, seed: int
) -> None:
    """Four partitions at their own pace, batches of any size, lines up to 3 s out of order."""
    chance = random.Random(seed)
    raw = list(generate(1500, seed=seed))
    waiting: dict[int, list[bytes]] = {partition: [] for partition in range(4)}
    for number, found in enumerate(raw):
        waiting[number % 4].append(found)
    t.cut_every(chance.randrange(5, 60))
    while any(waiting.values()):
        match chance.randrange(8):
            case 0:
                await t.restart(keep_stores=chance.random() < 0.5)
            case 1:
                t.crash(chance.choice(["before-commit", "after-commit"]))
        async with t.batch():
            for partition, lines in waiting.items():
                count = chance.randrange(0, 60)
                taken, waiting[partition] = lines[:count], lines[count:]
                for found in taken:
                    await t.send(log_lines, found, partition=partition)
    await t.advance(LONG)
    assert (t.late, t.dead_letters) == (0, [])
    assert final_counts(t) == by_hand(map(decode_log_line, raw))


async def test_updates_end_at_what_is_final(t: AppTest) -> None:
    for found in generate(300, seed=5):
        await t.send(log_lines, found)
    await t.advance(LONG)
    last = {(record.key, record.start): record.value for record in results(t, final=False)}
    assert last == final_counts(t)


async def test_closed_windows_stay_readable_for_an_hour_and_no_longer(t: AppTest) -> None:
    def readable() -> bool:
        return any(window.start == start(0) for window in error_counts.windows())

    await send_all(t, [line(5)] * 4)
    await t.advance(LONG)
    assert readable()
    await t.advance(3500)
    assert readable()
    await t.advance(200)
    await send_all(t, [line(4500)] * 4)
    await t.advance(LONG)
    assert not readable()
    assert all(pane > start(3600) - STEP for pane, _ in t.changelog(error_counts))


async def test_a_real_log_counts_as_by_hand(t: AppTest) -> None:
    if not APACHE_LOG.is_file():
        pytest.skip(f"there is no {APACHE_LOG.name} beside the checkout")
    raw = APACHE_LOG.read_bytes().splitlines()
    t.cut_every(200)
    async with t.batch():
        for number, found in enumerate(raw):
            await t.send(log_lines, found, partition=number % 4)
    await t.advance(LONG)
    assert t.dead_letters == []
    assert t.late == 0
    assert final_counts(t) == by_hand(map(decode_log_line, raw))
