"""Killed at any byte of any write, the broker goes on: nothing acknowledged is lost or halved.

The writes of a run are recorded in their order across all files. Any prefix of them, cut within a
write, is what a kill can leave behind.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.broker.errors import BrokerError, DataDirectoryLocked, JournalCorrupt
from streamapp.broker.events import (
    Committed,
    LogTrimmed,
    OffsetsCommitted,
    OffsetsPending,
    TopicCreated,
    TopicDeleted,
    TopicPartition,
)
from streamapp.broker.journal import FrameFile, frame
from streamapp.broker.state import State
from tests.broker.building import append, batch, close, committed, state

steps = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), st.integers(0, 1)),
        st.tuples(st.just("transaction"), st.integers(1, 2)),
        st.tuples(st.just("abort"), st.integers(1, 2)),
        st.tuples(st.just("leave open"), st.integers(1, 2)),
        st.tuples(st.just("offset"), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=8,
)


@dataclass
class Writes:
    """All writes below a directory, in order: file, bytes."""

    root: Path
    done: list[tuple[Path, bytes]] = field(default_factory=list)

    def record(self, file: FrameFile, payload: bytes) -> int:
        self.done.append((file.path.relative_to(self.root), frame(payload)))
        return original_append(file, payload)

    def size(self) -> int:
        return sum(len(data) for _, data in self.done)

    def replay(self, target: Path, count: int) -> None:
        """What is on disk after `count` bytes."""
        for path, data in self.done:
            written = data[:count]
            count -= len(written)
            if not written:
                return
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            with (target / path).open("ab") as file:
                file.write(written)


original_append = FrameFile.append


class Run:
    """Transactions over two partitions and a group, and what was acknowledged when."""

    def __init__(self, at: State, writes: Writes) -> None:
        self.at = at
        self.writes = writes
        self.number = 0
        #: Bytes written when it was acknowledged; what it was.
        self.acknowledged: list[tuple[int, str, int]] = []

    def run(self, what: str, argument: int) -> None:
        self.number += 1
        value = b"%d" % self.number
        if what == "plain":
            append(self.at.topics.log("t", argument), batch((None, value)))
        elif what == "offset":
            self.at.record(OffsetsCommitted("plain", [("t", 0, offset(self.number))]))
        else:
            self.transact(what, f"txn-{argument}", value)
        self.acknowledged.append((self.writes.size(), what, self.number))

    def transact(self, what: str, name: str, value: bytes) -> None:
        at = self.at
        producer, epoch = at.transactions.start(name, 60_000)
        transaction = at.transactions.check(name, producer, epoch)
        at.transactions.grow(transaction, at.now(), partitions=[("t", 0), ("t", 1)])
        for partition in (0, 1):
            data = batch(
                (None, value), producer=producer, epoch=epoch, sequence=0, transactional=True
            )
            append(at.topics.log("t", partition), data)
        at.transactions.grow(transaction, at.now(), group="group")
        at.record(OffsetsPending(producer, "group", [("t", 0, offset(self.number))]))
        if what != "leave open":
            at.transactions.end(transaction, commit=what == "transaction")


def offset(number: int) -> Committed:
    return Committed(number, -1, "", 0)


def values(at: State, partition: int) -> set[int]:
    return {int(value or b"") for _, _, value in committed(at.topics.log("t", partition))}


@settings(deadline=None, max_examples=60)
@given(steps, st.data())
def test_a_kill_loses_nothing_acknowledged_and_halves_no_transaction(
    taken: list[tuple[str, int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patched:
        first = Path(directory) / "first"
        writes = Writes(first)
        patched.setattr(FrameFile, "append", lambda file, payload: writes.record(file, payload))
        at, storage = state(first)
        at.record(TopicCreated("t", 1, 2, {}))
        run = Run(at, writes)
        created = writes.size()
        for step in taken:
            run.run(*step)
        patched.undo()
        assert storage is not None
        close(at, storage)

        cut = data.draw(st.integers(created, writes.size()))
        second = Path(directory) / "second"
        second.mkdir()
        writes.replay(second, cut)
        again, reopened = state(second)
        try:
            check(again, run, cut)
            check_goes_on(again)
        finally:
            assert reopened is not None
            close(again, reopened)


def check(again: State, run: Run, cut: int) -> None:
    kept = [(what, number) for size, what, number in run.acknowledged if size <= cut]
    everything = [(what, number) for _, what, number in run.acknowledged]
    # An open transaction hides what came after it, so end them all, as their owners would.
    for transaction in list(again.transactions):
        if transaction.is_open:
            again.transactions.abort(transaction)
    assert all(not log.open for log in again.topics.logs())
    visible = values(again, 0), values(again, 1)
    for what, number in everything:
        here = number in visible[0], number in visible[1]
        if what == "transaction":
            assert here[0] == here[1]
            assert here[0] or (what, number) not in kept
        elif what in ("abort", "leave open"):
            assert here == (False, False)
        elif what == "plain" and (what, number) in kept:
            assert any(here)
    done = sorted(number for what, number in everything if what == "transaction")
    group = again.offsets.of("group").get(("t", 0))
    last = max((number for number in done if number in visible[0]), default=None)
    assert (None if group is None else group.offset) == last
    plain = again.offsets.of("plain").get(("t", 0))
    expected = max((number for what, number in kept if what == "offset"), default=None)
    assert expected is None or (plain is not None and plain.offset >= expected)


def check_goes_on(again: State) -> None:
    producer, epoch = again.transactions.start("txn-1", 60_000)
    transaction = again.transactions.check("txn-1", producer, epoch)
    partition: TopicPartition = ("t", 0)
    again.transactions.grow(transaction, again.now(), partitions=[partition])
    data = batch((None, b"999"), producer=producer, epoch=epoch, sequence=0, transactional=True)
    append(again.topics.log("t", 0), data)
    again.transactions.end(transaction, commit=True)
    assert 999 in values(again, 0)
    assert again.transactions.new_producer_id() != producer


def test_producer_ids_are_never_given_twice(tmp_path: Path) -> None:
    at, storage = state(tmp_path)
    given_out = {at.transactions.new_producer_id() for _ in range(3)}
    assert storage is not None
    close(at, storage)

    again, storage = state(tmp_path)

    assert again.transactions.new_producer_id() not in given_out


def test_a_snapshot_leads_to_the_same_state(tmp_path: Path) -> None:
    at, storage = state(tmp_path)
    assert storage is not None
    at.record(TopicCreated("t", 1, 2, {"retention.ms": "5"}))
    run = Run(at, Writes(tmp_path))
    for what in ("transaction", "offset", "plain", "plain", "abort", "leave open"):
        run.run(what, 1)
    at.record(LogTrimmed("t", 1, 1))
    before = list(at.snapshot())

    storage.rewrite(at.snapshot())
    at.record(OffsetsCommitted("later", [("t", 0, offset(1))]))
    expected = list(at.snapshot())
    close(at, storage)
    again, _ = state(tmp_path)

    assert before != expected
    assert normal(list(again.snapshot())) == normal(expected)
    assert again.topics.log("t", 1).start == 1


def normal(events: list[Any]) -> list[str]:
    """Events in an order of their own, and without how many producer ids were skipped."""
    return sorted(repr(event) for event in events if "ProducerIds" not in repr(event))


def test_the_files_of_a_topic_deleted_just_before_a_crash_go(tmp_path: Path) -> None:
    at, storage = state(tmp_path)
    assert storage is not None
    at.record(TopicCreated("t", 1, 1, {}))
    append(at.topics.log("t", 0), batch((None, b"old")))
    files = tmp_path / "logs" / "1" / "0"
    kept = {path.name: path.read_bytes() for path in files.iterdir()}
    at.record(TopicDeleted("t"))
    at.record(TopicCreated("t", at.topics.next_id, 1, {}))
    close(at, storage)
    files.mkdir(parents=True)
    for name, content in kept.items():
        (files / name).write_bytes(content)

    again, _ = state(tmp_path)

    assert again.topics.log("t", 0).end == 0
    assert not files.exists()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    at, storage = state(tmp_path)
    assert storage is not None

    with pytest.raises(DataDirectoryLocked, match="in use by another broker"):
        state(tmp_path)

    close(at, storage)
    state(tmp_path)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "journal")
    file.append(b"\x93\xa6format\xcd\x03\xe7\xa1x")
    file.close()

    with pytest.raises(BrokerError, match="has format 999, this broker reads format 1"):
        state(tmp_path)


def test_a_journal_of_something_else_is_damage(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "journal")
    file.append(b"something else")
    file.close()

    with pytest.raises(JournalCorrupt, match="no event"):
        state(tmp_path)
