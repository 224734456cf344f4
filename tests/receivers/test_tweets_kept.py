"""A backlog in a directory: in order, within its bound, and there again after a crash."""

from pathlib import Path

import pytest

from streamapp.receivers.errors import SourceError
from streamapp.receivers.tweets.backlog import CONNECTED, KEEP_ALIVE, LEFT_OVER, LINE, BacklogFull
from streamapp.receivers.tweets.kept import KeptBacklog


def kept(directory: Path, most: int = 1_000_000) -> KeptBacklog:
    return KeptBacklog(directory, "tweets", "one", most)


def crash(backlog: KeptBacklog) -> None:
    """Let go of the directory as the end of a process does."""
    backlog._log.close()


def test_entries_are_taken_in_order(tmp_path: Path):
    backlog = kept(tmp_path)
    entries = [(LINE, b"one"), (KEEP_ALIVE, b"12345678"), (CONNECTED, b"12345678"), (LINE, b"two")]
    for kind, data in entries:
        backlog.put(kind, data)
    assert (len(backlog), backlog.spilled, backlog.size) == (4, 4, 22)
    assert [*backlog.take(3, 1_000)] == entries[:3]
    assert [*backlog.take(100, 1)] == entries[3:]
    assert (len(backlog), backlog.size) == (0, 0)
    backlog.close()


def test_lines_come_back_after_a_crash_and_nothing_else(tmp_path: Path):
    backlog = kept(tmp_path)
    for kind, data in ((CONNECTED, b"12345678"), (LINE, b"one"), (LINE, b"two")):
        backlog.put(kind, data)
    assert len([*backlog.take(2, 1_000)]) == 2
    crash(backlog)
    again = kept(tmp_path)
    assert (len(again), again.size) == (2, 6)
    again.put(LINE, b"three")
    assert [*again.take(100, 1_000)] == [(LEFT_OVER, b"one"), (LEFT_OVER, b"two"), (LINE, b"three")]
    assert len(again) == 0
    again.close()


def test_what_waits_at_the_end_waits_for_the_next_life(tmp_path: Path):
    backlog = kept(tmp_path)
    backlog.put(LINE, b"one")
    backlog.close()
    again = kept(tmp_path)
    assert [*again.take(100, 1_000)] == [(LEFT_OVER, b"one")]
    again.committed()
    again.close()
    last = kept(tmp_path)
    assert len(last) == 0
    last.close()


def test_without_room_it_says_so(tmp_path: Path):
    backlog = kept(tmp_path, most=10)
    backlog.put(LINE, b"12345678")
    with pytest.raises(BacklogFull):
        backlog.put(LINE, b"123")
    backlog.close()


def test_two_at_a_time_are_refused(tmp_path: Path):
    backlog = kept(tmp_path)
    with pytest.raises(SourceError, match="another process keeps"):
        kept(tmp_path)
    backlog.close()
