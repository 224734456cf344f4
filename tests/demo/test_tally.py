"""What the demo adds up from the records of its topics."""

from __future__ import annotations

from typing import Any

import msgspec

from streamapp.demo.log_tally import LogTally
from streamapp.engine import WindowRecord
from streamapp.engine.marker import LedgerBatch, LedgerEntry
from streamapp.receivers.positions import Committed

LINES, ERRORS, WINDOWS = LogTally.source, LogTally.partials, LogTally.results
HALF_MINUTE = 30_000


def window(tally: LogTally, start: int, key: str, value: int, *, final: bool = False) -> None:
    record = WindowRecord(key, start, start + HALF_MINUTE, value, final)
    tally.take(WINDOWS, 0, 0, key.encode(), msgspec.json.encode(record))


def ledger(
    tally: LogTally, topology: str, topic: str, until: int, records: int, **more: Any
) -> None:
    batch = LedgerBatch(
        topic=topic, partition=0, from_offset=0, until_offset=until, records=records
    )
    entry = LedgerEntry(
        topology=topology,
        partition=0,
        sequence=1,
        worker="worker-0",
        epoch=1,
        guarantee="exactly_once",
        at=0,
        batches=[batch],
        **more,
    )
    tally.take(f"streamapp-{topology}-ledger", 0, 0, None, msgspec.json.encode(entry))


def published(tally: LogTally, lines: int) -> None:
    committed = Committed(published=lines)
    tally.take(f"{LINES}-positions", 0, 0, b"demo", msgspec.json.encode(committed))


def test_an_error_is_counted_once_though_it_is_in_three_windows():
    tally = LogTally()
    for start in (10_000, 20_000, 30_000):
        window(tally, start, "*", 1)
        window(tally, start, "mod_jk", 1)
    assert tally.errors == 1


def test_the_last_value_of_a_window_counts():
    tally = LogTally()
    for value in (2, 5, 7):
        window(tally, 0, "*", value)
    assert tally.windows[0].total == 7
    assert tally.errors == tally.highest == 7


def test_a_window_is_final_when_it_is_for_every_key():
    tally = LogTally()
    window(tally, 0, "mod_jk", 3)
    window(tally, 0, "*", 3, final=True)
    assert not tally.windows[0].final
    window(tally, 0, "mod_jk", 3, final=True)
    assert tally.windows[0].final
    assert tally.windows[0].by_module == {"mod_jk": 3}


def test_the_time_of_a_commit_is_in_the_next_entry_of_its_task():
    tally = LogTally()
    ledger(tally, "find_errors", LINES, 10, 10, processing=1.5)
    assert tally.recent[0].commit is None
    ledger(tally, "count_errors", ERRORS, 3, 3, previous_commit=99.0)
    assert tally.recent[0].commit is None
    ledger(tally, "find_errors", LINES, 20, 10, previous_commit=4.5)
    assert (tally.recent[0].processing, tally.recent[0].commit) == (1.5, 4.5)
    assert (tally.batches, tally.processed) == (3, 20)


def test_it_is_settled_when_every_line_is_processed_and_every_partial_count_counted():
    tally = LogTally()
    published(tally, 4)
    assert not tally.settled
    tally.take(ERRORS, 0, 7, b"mod_jk", b"2")
    ledger(tally, "find_errors", LINES, 4, 4)
    assert not tally.settled, "the partial count at 7 is not counted"
    ledger(tally, "count_errors", ERRORS, 8, 1)
    assert tally.settled
    tally.take(ERRORS, 0, 9, None, None)
    assert tally.settled, "a mark of the watermark is nothing to count"
