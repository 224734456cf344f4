"""Retention and compaction: what readers still see, whatever was cleaned when."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.broker import batches, cleaning
from streamapp.broker.cleaning import clean, compact, is_dirty, retain
from streamapp.broker.events import ConfigsSet, TopicCreated, TopicDeleted
from streamapp.broker.log import PartitionLog
from streamapp.broker.state import State
from tests.broker.building import Clock, append, batch, close, committed, state, whole

RETENTION_MS = 1_000
Seen = list[tuple[int, bytes | None, bytes | None]]

keys = st.sampled_from([b"a", b"b", b"c"])
pairs = st.lists(
    st.tuples(keys, st.one_of(st.none(), st.binary(max_size=3))), min_size=1, max_size=4
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), st.just(0), pairs),
        st.tuples(st.just("data"), st.integers(1, 2), pairs),
        st.tuples(st.sampled_from(["commit", "abort"]), st.integers(1, 2), st.none()),
        st.tuples(st.sampled_from(["clean", "later"]), st.just(0), st.none()),
    ),
    max_size=25,
)


def opened(directory: Path | None, clock: Clock, **configs: str) -> tuple[State, PartitionLog]:
    defaults = {"cleanup.policy": "compact", "delete.retention.ms": str(RETENTION_MS)}
    at, _ = state(directory, clock=clock)
    if "t" not in at.topics:
        at.record(TopicCreated("t", 1, 1, {**defaults, **configs}))
    return at, at.topics.log("t", 0)


def run_compaction(at: State) -> None:
    topic = at.topics.topic("t")
    cleaning_up = compact(at, topic, topic.logs[0], at.now())
    with contextlib.suppress(StopIteration):
        while True:  # it only ever gives way to others, and there are none
            cleaning_up.send(None)


def latest(seen: Seen) -> dict[bytes | None, bytes | None]:
    """The value of each key, without those that are deleted."""
    values = {key: value for _, key, value in seen}
    return {key: value for key, value in values.items() if value is not None}


def run(taken: list[tuple[str, int, list[tuple[bytes, bytes | None]] | None]], at: State) -> None:
    """Take the steps; check after each cleaning that nobody can tell but by what is missing."""
    log = at.topics.log("t", 0)
    clock = at.now
    assert isinstance(clock, Clock)
    sequences = {1: 0, 2: 0}
    everything: Seen = []
    for what, producer, records in taken:
        if what == "clean":
            before, stable, end = committed(log), log.stable, log.end
            run_compaction(at)
            after = committed(log)
            assert (log.stable, log.end) == (stable, end)
            assert log.clean_bytes == sum(
                each.size for each in log.entries if each.last < log.clean_until
            )
            assert set(after) <= set(before)
            assert latest(after) == latest(before)
            for position in range(end):  # a reader who is there already misses no last value
                rest = [each for each in after if each[0] >= position]
                assert latest(rest) == latest([each for each in before if each[0] >= position])
        elif what == "later":
            clock.now += RETENTION_MS
        elif what in ("commit", "abort"):
            log.append_marker(producer, 0, clock(), commit=what == "commit")
        else:
            assert records is not None
            if producer:
                options = {"producer": producer, "epoch": 0, "sequence": sequences[producer]}
                sequences[producer] += len(records)
                append(log, batch(*records, **options, transactional=True), now=clock())
            else:
                append(log, batch(*records), now=clock())
        everything = sorted({*everything, *committed(log)})
        assert latest(committed(log)) == latest(
            [each for each in everything if each[0] < log.stable]
        )
        if log.end:
            assert log.entries[-1].last == log.end - 1  # a reader can reach the end


@settings(deadline=None)
@given(steps)
def test_in_memory_cleaning_leaves_what_readers_need(
    taken: list[tuple[str, int, list[tuple[bytes, bytes | None]] | None]],
) -> None:
    at, _ = opened(None, Clock())
    run(taken, at)


@settings(deadline=None, max_examples=30)
@given(steps)
def test_in_files_cleaning_leaves_what_readers_need_and_a_restart_finds_it(
    taken: list[tuple[str, int, list[tuple[bytes, bytes | None]] | None]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        clock = Clock()
        at, log = opened(Path(directory), clock, **{"segment.bytes": "200"})
        run(taken, at)
        expected = (whole(log), log.end, log.open, committed(log), log.clean_until, log.cleanings)
        assert at.journal is not None
        # As far as the logs go, transactions that no coordinator knows are aborted on opening.
        open_before = dict(log.open)
        close(at, at.journal)  # type: ignore[arg-type]

        again, relog = opened(Path(directory), clock)
        found = whole(relog)[: len(expected[0])]
        assert found == expected[0]
        assert relog.end == expected[1] + len(open_before)
        assert (relog.clean_until, relog.cleanings) == expected[4:]
        assert set(expected[3]) <= set(committed(relog))
        close(again, again.journal)  # type: ignore[arg-type]


def test_tombstones_stay_for_the_retention_time_after_the_first_cleaning() -> None:
    clock = Clock()
    at, log = opened(None, clock)
    append(log, batch((b"a", b"1"), (b"a", None)))
    append(log, batch((b"b", b"1")))

    run_compaction(at)
    assert committed(log) == [(1, b"a", None), (2, b"b", b"1")]

    clock.now += RETENTION_MS
    append(log, batch((b"c", b"1")))
    run_compaction(at)
    assert committed(log) == [(2, b"b", b"1"), (3, b"c", b"1")]


def test_nothing_beyond_an_open_transaction_is_cleaned() -> None:
    at, log = opened(None, Clock())
    append(log, batch((b"a", b"1")))
    append(log, batch((b"a", b"2")))
    append(log, batch((b"a", b"3"), producer=1, epoch=0, sequence=0, transactional=True))
    append(log, batch((b"a", b"4")))

    run_compaction(at)

    assert [batches.parse(data).base_offset for data in whole(log)] == [1, 2, 3]


def test_records_of_an_aborted_transaction_go() -> None:
    at, log = opened(None, Clock())
    append(log, batch((b"a", b"1")))
    append(log, batch((b"a", b"2"), producer=1, epoch=0, sequence=0, transactional=True))
    log.append_marker(1, 0, 5000, commit=False)
    append(log, batch((b"b", b"1")))

    run_compaction(at)

    assert [key for _, key, _ in committed(log)] == [b"a", b"b"]
    records = [batches.parse(data).record_count for data in whole(log)]
    assert records == [1, 0, 1, 1]  # the empty one keeps the producer's sequence


def test_an_aborted_transaction_is_forgotten_with_its_marker() -> None:
    clock = Clock()
    at, log = opened(None, clock)
    append(log, batch((b"a", b"1"), producer=1, epoch=0, sequence=0, transactional=True))
    log.append_marker(1, 0, 5000, commit=False)
    append(log, batch((b"b", b"1")))
    run_compaction(at)
    assert len(log.aborted) == 1
    append(log, batch((b"c", b"1"), producer=1, epoch=0, sequence=1, transactional=True))
    log.append_marker(1, 0, 5000, commit=True)

    clock.now += RETENTION_MS
    run_compaction(at)

    # Listed without its marker, it would hide what the producer has committed since.
    assert log.aborted == []
    assert [key for _, key, _ in committed(log)] == [b"b", b"c"]


def test_a_commit_marker_stays_as_long_as_a_record_of_its_transaction() -> None:
    clock = Clock()
    at, log = opened(None, clock)
    append(log, batch((b"a", b"1"), producer=1, epoch=0, sequence=0, transactional=True))
    log.append_marker(1, 0, 5000, commit=True)
    for value in (b"1", b"2"):
        append(log, batch((b"b", value)))
        run_compaction(at)
        clock.now += RETENTION_MS
    append(log, batch((b"c", b"1")))
    run_compaction(at)

    again = PartitionLog("t", 0)
    for data in whole(log):
        again.replay(data, data, 5000)

    assert again.open == {}
    assert committed(again) == committed(log)


def test_the_last_batch_stays_as_an_empty_one() -> None:
    clock = Clock()
    at, log = opened(None, clock)
    append(log, batch((b"a", b"1")))
    append(log, batch((b"a", None)))
    run_compaction(at)
    clock.now += RETENTION_MS
    log.clean_until = 0  # as if something had been appended, which would then be the last
    run_compaction(at)

    assert committed(log) == []
    assert [(each.base, each.last) for each in log.entries] == [(1, 1)]


@pytest.mark.parametrize("codec", [0, 1, 3], ids=["plain", "gzip", "lz4"])
def test_a_batch_is_rebuilt_in_its_own_codec(codec: int) -> None:
    if codec == 3:
        pytest.importorskip("cramjam")
    at, log = opened(None, Clock())
    append(log, batch((b"a", b"1" * 200), (b"b", b"2" * 200), codec=codec))
    append(log, batch((b"a", b"3")))

    run_compaction(at)

    assert committed(log) == [(1, b"b", b"2" * 200), (2, b"a", b"3")]
    assert batches.parse(whole(log)[0]).attributes & batches.COMPRESSION == codec


def test_young_records_are_left_alone() -> None:
    clock = Clock(10_000)
    at, log = opened(None, clock, **{"min.compaction.lag.ms": "1000"})
    append(log, batch((b"a", b"1"), timestamps=[8_000]))
    append(log, batch((b"a", b"2"), timestamps=[8_500]))
    append(log, batch((b"a", b"3"), timestamps=[9_500]))

    run_compaction(at)

    assert [value for _, _, value in committed(log)] == [b"2", b"3"]


def test_a_cleaning_with_many_keys_goes_as_far_as_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleaning, "MAX_KEYS", 3)
    at, log = opened(None, Clock())
    for round_ in range(2):
        for number in range(10):
            append(log, batch((b"%d" % number, b"%d" % round_)))

    for _ in range(20):
        run_compaction(at)

    assert latest(committed(log)) == {b"%d" % number: b"1" for number in range(10)}


@pytest.mark.parametrize("step", range(1, 10))
def test_a_cleaning_that_is_overtaken_by_a_deletion_gives_up(tmp_path: Path, step: int) -> None:
    at, log = opened(tmp_path, Clock())
    for _ in range(5):
        append(log, batch((b"a", b"1")))
    cleaning_up = compact(at, at.topics.topic("t"), log, at.now())
    with contextlib.suppress(StopIteration):
        for number in range(20):
            if number == step:
                at.record(TopicDeleted("t"))
            cleaning_up.send(None)

    assert "t" not in at.topics
    assert list((tmp_path / "logs" / "1").iterdir()) == []
    close(at, at.journal)  # type: ignore[arg-type]


def test_a_log_is_dirty_when_enough_was_appended() -> None:
    at, log = opened(None, Clock(), **{"min.cleanable.dirty.ratio": "0.5"})
    topic = at.topics.topic("t")
    assert not is_dirty(log, topic)
    for number in range(4):
        append(log, batch((b"%d" % number, b"1")))
    assert is_dirty(log, topic)

    run_compaction(at)
    append(log, batch((b"0", b"1")))
    assert not is_dirty(log, topic)

    at.record(ConfigsSet("t", {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}))
    assert is_dirty(log, at.topics.topic("t"))


def test_retention_by_time_goes_batch_by_batch_up_to_the_first_young_one() -> None:
    clock = Clock(10_000)
    at, log = opened(None, clock, **{"cleanup.policy": "delete", "retention.ms": "1000"})
    for time in (8_000, 8_900, 9_100, 8_000):
        append(log, batch((b"k", b"v"), timestamps=[time]))

    retain(at, at.topics.topic("t"), clock())

    assert log.start == 2


def test_retention_by_size_leaves_no_less_than_it_says() -> None:
    size = len(batch((b"k", b"v")))
    at, log = opened(
        None, Clock(), **{"cleanup.policy": "delete", "retention.bytes": str(2 * size + 1)}
    )
    for _ in range(5):
        append(log, batch((b"k", b"v"), timestamps=[10**12]))

    retain(at, at.topics.topic("t"), 10**12)

    assert (log.start, log.bytes) == (2, 3 * size)


def test_a_round_of_cleaning_leaves_topics_that_keep_everything_alone() -> None:
    at, log = opened(None, Clock(), **{"cleanup.policy": "delete", "retention.ms": "-1"})
    append(log, batch((b"a", b"1")))
    append(log, batch((b"a", b"2")))

    asyncio.run(clean(at))

    assert (log.start, len(log.entries)) == (0, 2)
