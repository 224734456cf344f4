"""What a batch shows of its records, and what becomes of those that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.batch import Batch
from streamapp.engine.topic import Topic
from streamapp.state.cursor import Cursor
from tests.engine.tasks import Record, an_app, json_records
from tests.state.quick import QUICK

app = an_app()


class Made:
    """A batch, with the cursor that it moves and the dead letters that it made."""

    def __init__(self, records: list[Record], from_offset: int = 0, **options: Any) -> None:
        self.cursor = Cursor()
        self.dead: list[tuple[int, str]] = []
        source: Topic = app.topic("in", **options)
        self.batch = Batch(
            source,
            2,
            from_offset,
            from_offset + len(records) + 1,
            records,
            self.cursor,
            lambda record, error: self.dead.append((record.offset, type(error).__name__)),
        )


def test_it_iterates_over_the_decoded_values() -> None:
    made = Made(json_records([1, "two", None, {"three": 3}]))
    assert list(made.batch) == [1, "two", None, {"three": 3}]
    assert len(made.batch) == 4


def test_its_id_names_topic_partition_and_range() -> None:
    assert Made(json_records([1, 2]), from_offset=7).batch.id == "in:2:7-10"


def test_the_columns_have_one_entry_a_record() -> None:
    records = [
        Record(5, 1000, b"a", b"1", [("h", b"x")]),
        Record(6, 2000, None, b"2"),
    ]
    batch = Made(records).batch
    assert batch.values == [1, 2]
    assert batch.keys == [b"a", None]
    assert batch.timestamps == [1000, 2000]
    assert batch.offsets == [5, 6]
    assert batch.headers == [[("h", b"x")], ()]
    assert batch.event_times == [1000, 2000]
    assert list(batch.items()) == [(b"a", 1), (None, 2)]


def test_keys_are_decoded_where_the_topic_has_a_key_type() -> None:
    batch = Made([Record(0, 0, b"a", b"1"), Record(1, 0, None, b"1")], key_type=str).batch
    assert batch.keys == ["a", None]


def test_a_record_without_a_value_is_none() -> None:
    assert Made([Record(0, 0, b"a", None)], value_type=int).batch.values == [None]


def test_values_are_decoded_once() -> None:
    decoded = []

    def decode(raw: bytes) -> bytes:
        decoded.append(raw)
        return raw

    batch = Made([Record(0, value=b"a"), Record(1, value=b"b")], decode=decode).batch
    for _ in range(3):
        assert list(batch) == batch.values == [b"a", b"b"]
    assert decoded == [b"a", b"b"]


@pytest.mark.parametrize(
    ("event_time", "value"),
    [("time", {"time": 1500}), (lambda value: value["time"] * 1.0, {"time": 1.5})],
    ids=["field", "function"],
)
def test_event_time_is_what_the_topic_says(event_time: Any, value: Any) -> None:
    batch = Made(json_records([value], at=9), event_time=event_time).batch
    assert batch.event_times == [1500]
    assert batch.timestamps == [9]


@pytest.mark.parametrize("written", [b"1500", b"1970-01-01T00:00:01.5Z"])
def test_event_time_may_be_in_a_header(written: bytes) -> None:
    records = [Record(0, 9, None, b"1", [("when", written)]), Record(1, 9, None, b"2")]
    made = Made(records, event_time_header="when")
    assert made.batch.event_times == [1500]
    assert made.batch.values == [1]
    assert made.dead == [(1, "ValueError")]


def test_a_tombstone_happened_when_it_was_published() -> None:
    records = [Record(0, 9, b"a", b'{"time": 1500}'), Record(1, 10, b"a", None)]
    made = Made(records, event_time="time")
    assert made.batch.event_times == [1500, 10]
    assert made.dead == []


def test_a_value_that_cannot_be_decoded_is_a_dead_letter_and_the_rest_goes_on() -> None:
    records = [Record(0, 1, b"a", b"1"), Record(1, 2, b"b", b"{"), Record(2, 3, b"c", b"3")]
    made = Made(records)
    assert list(made.batch) == [1, 3]
    assert made.dead == [(1, "DecodeError")]
    assert made.batch.keys == [b"a", b"c"]
    assert made.batch.offsets == [0, 2]
    assert made.batch.event_times == [1, 3]


def test_a_key_that_cannot_be_decoded_is_one_too() -> None:
    made = Made([Record(0, 0, b"\xff", b"1"), Record(1, 0, b"b", b"2")], key_type=str)
    assert list(made.batch.items()) == [("b", 2)]
    assert made.dead == [(0, "UnicodeDecodeError")]


def test_a_value_without_its_event_time_is_one_too_before_anyone_has_seen_it() -> None:
    made = Made(json_records([{"time": 1}, {"no": 1}, {"time": "soon"}]), event_time="time")
    assert made.batch.values == [{"time": 1}]
    assert made.dead == [(1, "KeyError"), (2, "ValueError")]
    assert made.batch.keys == [None]
    assert made.batch.event_times == [1]


@QUICK
@given(
    st.lists(
        st.one_of(
            st.integers(0, 10**12).map(lambda time: {"time": time}),
            st.just({"time": None}),
            st.none(),
            st.sampled_from([b"{", b"\xff", b"", b"[1]"]),
        )
    ),
    st.lists(st.sampled_from([None, b"k", b"\xff"]), min_size=1),
)
def test_whatever_comes_columns_and_dead_letters_share_the_records(
    values: list[Any], keys: list[bytes | None]
) -> None:
    records = [
        Record(
            offset,
            0,
            keys[offset % len(keys)],
            value if isinstance(value, bytes) else json.dumps(value).encode(),
        )
        for offset, value in enumerate(values)
    ]

    def readable(record: Record) -> bool:
        good = record.value is not None and record.value.startswith(b'{"time": ')
        return good and record.value != b'{"time": null}' and record.key != b"\xff"

    made = Made(records, event_time="time", key_type=str)
    batch = made.batch
    kept = [record for record in records if readable(record)]
    assert batch.offsets == [record.offset for record in kept]
    assert batch.values == [json.loads(record.value or b"") for record in kept]
    assert batch.keys == [record.key.decode() if record.key else None for record in kept]
    assert batch.event_times == [value["time"] for value in batch.values]
    assert sorted(offset for offset, _ in made.dead) == sorted(
        {record.offset for record in records} - {record.offset for record in kept}
    )


def test_the_cursor_is_at_the_record_at_hand() -> None:
    made = Made(json_records([1]) + json_records([2], 1, at=50))
    seen = [made.cursor.time() for _ in made.batch]
    assert seen == [0, 50]


def test_there_is_no_record_at_hand_before_and_after_the_loop() -> None:
    made = Made(json_records([1, 2], at=50))
    made.batch.at_hand()
    assert made.cursor.time() is None
    for _ in made.batch:
        assert made.cursor.time() == 50
    assert made.cursor.time() is None


def test_a_loop_within_the_loop_gives_the_record_at_hand_back() -> None:
    made = Made(json_records([1], at=10) + json_records([2], 1, at=20))
    seen = []
    for _ in made.batch:
        assert max(value for value in made.batch) == 2
        seen.append(made.cursor.time())
    assert seen == [10, 20]
