"""Streams between tasks: what is combined, at which event time, and the marks among the records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamapp import Count, Max, Mean
from streamapp.engine.key_by import Combiner, KeyBy, UpstreamMark, is_mark, mark_record, read_mark
from streamapp.engine.outbox import Outbox
from streamapp.errors import ConfigurationError, RecordError, TableError
from streamapp.state.cursor import Cursor
from tests.engine.tasks import Record, an_app

app = an_app()


class Sending:
    """A combiner with its cursor and its outbox."""

    def __init__(self, **options: Any) -> None:
        self.key_by: KeyBy = app.key_by("k", **options)
        self.outbox = Outbox({}, 1_000_000)
        self.cursor = Cursor()
        self.combiner = Combiner(self.key_by, self.outbox, self.cursor)

    def at(self, *times: int) -> Any:
        self.cursor.times = list(times)
        for self.cursor.index in range(len(times)):
            yield self.cursor.index

    def sent(self, latest: int = 0) -> list[tuple[Any, Any, int | None]]:
        self.combiner.flush(latest)
        return [
            (
                json.loads(record.key or b"null"),
                json.loads(record.value or b"null"),
                record.timestamp,
            )
            for record in self.outbox.take()
        ]


def test_its_topic_is_named_after_the_application() -> None:
    assert app.key_by("words").name == "app-words-by-key"


def test_its_topic_keeps_everything_with_the_event_times_it_is_given() -> None:
    config = app.key_by("words").config
    assert config is not None
    assert config["retention.ms"] == "-1"
    assert config["message.timestamp.type"] == "CreateTime"


def test_ten_keys_are_ten_records_however_many_there_are_of_each() -> None:
    sending = Sending(aggregate=Count())
    for index in sending.at(*[5] * 10_000):
        sending.combiner.add(index % 10, 1, None)
    assert sorted(sending.sent(latest=5)) == [(key, 1000, 5) for key in range(10)]


def test_with_panes_each_has_its_own_partials_at_its_begin() -> None:
    sending = Sending(aggregate=Count(), pane=10)
    for _ in sending.at(9_999, 10_000, 19_999, 3_000):
        sending.combiner.add("a", 1, None)
    assert sending.sent(latest=19_999) == [("a", 2, 0), ("a", 2, 10_000)]


def test_without_panes_partials_have_the_latest_time() -> None:
    sending = Sending(aggregate=Count())
    for _ in sending.at(100, 300, 200):
        sending.combiner.add("a", 1, None)
    assert sending.sent(latest=300) == [("a", 3, 300)]


def test_without_an_aggregation_every_record_goes_at_its_own_time() -> None:
    sending = Sending()
    for index in sending.at(100, 50):
        sending.combiner.add("a", {"n": index}, None)
    assert sending.sent() == [("a", {"n": 0}, 100), ("a", {"n": 1}, 50)]


@pytest.mark.parametrize(
    ("aggregate", "partial"),
    [(Max(), 7), (Mean(), [12, 3]), (Count(), 12)],
    ids=["max", "mean", "count"],
)
def test_partials_are_accumulators(aggregate: Any, partial: Any) -> None:
    sending = Sending(aggregate=aggregate)
    for index in sending.at(0, 0, 0):
        sending.combiner.add("a", [2, 7, 3][index], None)
    assert sending.sent() == [("a", partial, 0)]


def test_flushing_begins_anew() -> None:
    sending = Sending(aggregate=Count())
    sending.combiner.add("a", 1, 0)
    assert len(sending.sent()) == 1
    assert sending.sent() == []


def test_without_a_record_at_hand_it_wants_a_time() -> None:
    sending = Sending(aggregate=Count())
    with pytest.raises(TableError, match="at=time"):
        sending.combiner.add("a", 1, None)
    sending.combiner.add("a", 1, 1500)
    assert sending.sent(latest=1500) == [("a", 1, 1500)]


def test_a_key_of_the_wrong_type_is_named() -> None:
    sending = Sending(key_type=str)
    with pytest.raises(RecordError, match=r"app-k-by-key does not take this key \(str\).*int"):
        sending.combiner.add(5, 1, 0)


def test_outside_of_a_task_it_says_where_it_belongs() -> None:
    with pytest.raises(ConfigurationError, match="uses="):
        app.key_by("k").add("a")


@pytest.mark.parametrize(
    "mark", [UpstreamMark("t/3", 1234, False), UpstreamMark("t.x-y/0", None, True)]
)
def test_a_mark_survives_the_way(mark: UpstreamMark) -> None:
    record = mark_record("app-k-by-key", 2, mark, 99)
    assert (record.topic, record.partition, record.timestamp) == ("app-k-by-key", 2, 99)
    assert is_mark(record)
    assert read_mark(record) == mark


@pytest.mark.parametrize(
    "record",
    [
        Record(0, 0, None, None),
        Record(0, 0, b"k", None, [("streamapp-watermark", b"t/0\n1\n0")]),
        Record(0, 0, None, b"1", [("streamapp-watermark", b"t/0\n1\n0")]),
        Record(0, 0, None, None, [("other", b"x")]),
    ],
    ids=["empty", "a key", "a value", "another header"],
)
def test_a_record_of_data_is_no_mark(record: Record) -> None:
    assert not is_mark(record)
