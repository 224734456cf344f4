"""The log of a partition against a model that looks at every record every time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.broker import batches
from streamapp.broker.errors import ErrorCode, Refused
from streamapp.broker.log import PartitionLog, Usage
from tests.broker.building import KeyValue, append, batch, committed, whole

# Each step: (what, producer, records or offset).
steps = st.lists(
    st.tuples(
        st.sampled_from(["plain", "data", "data", "commit", "abort", "trim"]),
        st.integers(1, 3),
        st.integers(1, 4),
    ),
    max_size=30,
)


@dataclass
class Model:
    """A partition as a list of (offset, producer of a transaction or None, value)."""

    records: list[tuple[int, int | None, bytes]] = field(default_factory=list)
    #: Offset of a marker, producer, whether it commits.
    markers: list[tuple[int, int, bool]] = field(default_factory=list)
    start: int = 0
    end: int = 0

    def outcome(self, offset: int, producer: int) -> bool | None:
        """How the transaction of a record ended, None while it is open."""
        return next((c for at, who, c in self.markers if who == producer and at > offset), None)

    def stable(self) -> int:
        undecided = [
            offset
            for offset, producer, _ in self.records
            if producer is not None and self.outcome(offset, producer) is None
        ]
        return max(min(undecided, default=self.end), self.start)

    def committed(self) -> list[tuple[int, bytes]]:
        return [
            (offset, value)
            for offset, producer, value in self.records
            if self.start <= offset < self.stable()
            and (producer is None or self.outcome(offset, producer))
        ]


class Pair:
    """A log and its model, changed together."""

    def __init__(self) -> None:
        self.log = PartitionLog("t", 0)
        self.model = Model()
        self.sequences: dict[int, int] = {}

    def run(self, what: str, producer: int, number: int) -> None:
        model, log = self.model, self.log
        if what in ("plain", "data"):
            values = [b"%d" % (model.end + n) for n in range(number)]
            owner = producer if what == "data" else None
            if owner is None:
                data = batch(*[(None, value) for value in values])
            else:
                sequence = self.sequences.get(owner, 0)
                self.sequences[owner] = sequence + number
                data = batch(
                    *[(None, value) for value in values],
                    producer=owner,
                    epoch=0,
                    sequence=sequence,
                    transactional=True,
                )
            assert append(log, data).base_offset == model.end
            model.records += [(model.end + n, owner, value) for n, value in enumerate(values)]
            model.end += number
        elif what == "trim":
            model.start = max(model.start, min(model.stable(), model.start + number))
            log.trim(model.start)
        else:
            commit = what == "commit"
            assert log.append_marker(producer, 0, 5000, commit=commit) == model.end
            model.markers.append((model.end, producer, commit))
            model.end += 1


@settings(deadline=None)
@given(steps)
def test_the_log_is_what_its_records_say(taken: list[tuple[str, int, int]]) -> None:
    pair = Pair()
    for step in taken:
        pair.run(*step)
        log, model = pair.log, pair.model
        assert (log.start, log.end, log.stable) == (model.start, model.end, model.stable())
        assert [(offset, value) for offset, _, value in committed(log)] == model.committed()


@settings(deadline=None)
@given(steps)
def test_replayed_from_its_batches_it_is_the_same_log(taken: list[tuple[str, int, int]]) -> None:
    pair = Pair()
    for what, producer, number in taken:
        pair.run("plain" if what == "trim" else what, producer, number)

    again = PartitionLog("t", 0)
    for data in whole(pair.log):
        again.replay(data, data, 5000)

    assert (again.end, again.bytes) == (pair.log.end, pair.log.bytes)
    assert (again.open, again.aborted) == (pair.log.open, pair.log.aborted)
    assert committed(again) == committed(pair.log)


@settings(deadline=None)
@given(steps, st.integers(0, 60), st.integers(1, 400), st.booleans())
def test_a_fetch_begins_at_its_offset_and_keeps_to_its_size(
    taken: list[tuple[str, int, int]], offset: int, room: int, at_least_one: bool
) -> None:
    pair = Pair()
    for step in taken:
        pair.run(*step)
    log = pair.log
    limit = log.stable
    found = log.entries[log.find(offset, limit, room, at_least_one=at_least_one)]

    readable = [each for each in log.entries if each.last >= offset and each.last < limit]
    assert found == readable[: len(found)]
    assert log.available(offset, limit, 1 << 30) == sum(each.size for each in readable)
    size = sum(each.size for each in found)
    assert size <= room or (at_least_one and len(found) == 1)
    if len(found) < len(readable):
        assert size + readable[len(found)].size > room


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=3), max_size=12), st.data())
def test_the_first_batch_at_a_time_is_found(times: list[list[int]], data: st.DataObject) -> None:
    log = PartitionLog("t", 0)
    for stamps in times:
        append(log, batch(*[(None, b"")] * len(stamps), timestamps=stamps))
    log.trim(data.draw(st.integers(0, log.end)))
    wanted = data.draw(st.integers(0, 51))

    found = next((each for each in log.candidates(wanted) if each.newest >= wanted), None)

    assert found is next((each for each in log.entries if each.newest >= wanted), None)


def test_a_batch_sent_twice_is_kept_once_and_has_one_answer() -> None:
    log = PartitionLog("t", 0)
    sent = [batch((None, b"%d" % n), producer=1, epoch=0, sequence=n) for n in range(7)]
    offsets = [append(log, data).base_offset for data in sent]

    again = [append(log, data) for data in sent[2:]]

    assert [each.base_offset for each in again] == offsets[2:]
    assert all(each.duplicate for each in again)
    assert log.end == 7


@pytest.mark.parametrize(
    ("epoch", "sequence", "code"),
    [
        pytest.param(1, 3, ErrorCode.out_of_order_sequence_number, id="a gap"),
        pytest.param(1, 0, ErrorCode.out_of_order_sequence_number, id="older than the last five"),
        pytest.param(0, 1, ErrorCode.invalid_producer_epoch, id="a fenced epoch"),
        pytest.param(2, 1, ErrorCode.out_of_order_sequence_number, id="an epoch begun in mid-air"),
    ],
)
def test_a_sequence_that_cannot_be_is_refused(epoch: int, sequence: int, code: ErrorCode) -> None:
    log = PartitionLog("t", 0)
    append(log, batch((None, b""), (None, b""), producer=1, epoch=1, sequence=0))

    with pytest.raises(Refused) as refused:
        append(log, batch((None, b""), producer=1, epoch=epoch, sequence=sequence))

    assert refused.value.code is code
    assert log.end == 2


def test_sequences_wrap_around() -> None:
    log = PartitionLog("t", 0)
    top = 2**31 - 2
    append(log, batch((None, b"a"), (None, b"b"), producer=1, epoch=0, sequence=top))
    append(log, batch((None, b"c"), producer=1, epoch=0, sequence=0))

    assert log.end == 3


def test_a_marker_of_a_higher_epoch_fences() -> None:
    log = PartitionLog("t", 0)
    zombie = {"producer": 1, "epoch": 0, "transactional": True}
    append(log, batch((None, b"a"), sequence=0, **zombie))
    log.append_marker(1, 1, 5000, commit=False)

    with pytest.raises(Refused) as refused:
        append(log, batch((None, b"b"), sequence=1, **zombie))

    assert refused.value.code is ErrorCode.invalid_producer_epoch
    assert committed(log) == []


def test_the_append_time_is_the_log_s_when_it_stamps() -> None:
    log = PartitionLog("t", 0)

    appended = append(log, batch((None, b"a")), now=7777, stamp=True)

    assert appended.time == 7777
    assert batches.parse(whole(log)[0]).max_timestamp == 7777


def test_only_the_aborted_transactions_of_what_is_fetched_are_listed() -> None:
    log = PartitionLog("t", 0)
    for producer in (1, 2, 3):
        options = {"producer": producer, "epoch": 0, "sequence": 0}
        append(log, batch((None, b"a"), **options, transactional=True))
        log.append_marker(producer, 0, 5000, commit=False)

    assert [each.producer_id for each in log.aborted_in(0, 1)] == [1]
    assert [each.producer_id for each in log.aborted_in(1, 3)] == [1, 2]
    assert [each.producer_id for each in log.aborted_in(4, 6)] == [3]


def test_watchers_are_told_of_records_of_markers_and_of_the_end() -> None:
    log = PartitionLog("t", 0)
    told: list[int] = []
    log.watchers.add(lambda each: told.append(each.end))

    append(log, batch((None, b"a")))
    log.append_marker(1, 0, 5000, commit=True)
    log.retire()

    assert told == [1, 2, 2]


def test_what_logs_hold_is_counted_together() -> None:
    usage = Usage()
    first = PartitionLog("t", 0, usage=usage)
    second = PartitionLog("t", 1, usage=usage)
    values: list[KeyValue] = [(None, b"value")]
    for log in (first, second, second):
        append(log, batch(*values))
    size = len(batch(*values))
    assert (usage.bytes, usage.entries) == (3 * size, 3)

    second.trim(1)
    first.retire()

    assert (usage.bytes, usage.entries) == (size, 1)
