"""A dead letter has the record, where it was, and why; it always fits its topic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamapp.engine.dead_letters import dead_letter, read_dead_letter
from tests.engine.tasks import Record
from tests.state.quick import QUICK


def headers_of(
    record: Record, limit: int = 1_000_000, error: Exception | None = None
) -> dict[str, bytes]:
    letter = dead_letter("dead", "in", 3, record, error or ValueError("bad"), limit)
    return dict(letter.headers)


def test_it_is_the_record_with_its_coordinates_and_the_error() -> None:
    record = Record(17, 1234, b"k", b"v", [("h", b"x")])
    letter = dead_letter("dead", "in", 3, record, ValueError("no number"), 10_000)
    assert (letter.topic, letter.key, letter.value) == ("dead", b"k", b"v")
    assert dict(letter.headers) == {
        "h": b"x",
        "streamapp-topic": b"in",
        "streamapp-partition": b"3",
        "streamapp-offset": b"17",
        "streamapp-timestamp": b"1234",
        "streamapp-error": b"ValueError: no number",
    }


def test_a_value_too_large_is_cut_and_its_length_told() -> None:
    record = Record(0, 0, b"k", b"v" * 5000)
    letter = dead_letter("dead", "in", 3, record, ValueError("bad"), 1000)
    assert letter.key == b"k"
    assert letter.value
    assert record.value is not None
    assert record.value.startswith(letter.value)
    assert 900 < letter.size <= 1000
    assert dict(letter.headers)["streamapp-cut-from"] == b"5000"


def raised(causes: int) -> ValueError:
    """An error that was raised, with a long story before it."""
    error: ValueError | None = None
    for _ in range(causes + 1):
        try:
            raise ValueError("bad") from error
        except ValueError as found:
            error = found
    assert error is not None
    return error


def test_one_of_an_agent_has_its_name_and_the_end_of_the_traceback() -> None:
    letter = dead_letter("dead", "in", 3, Record(), raised(200), 100_000, "count")
    headers = dict(letter.headers)
    assert headers["streamapp-agent"] == b"count"
    assert len(headers["streamapp-traceback"]) <= 4000
    assert headers["streamapp-traceback"].endswith(b"ValueError: bad\n")


def test_it_can_be_read_again() -> None:
    record = Record(17, 1234, b"k", b"v" * 5000, [("h", b"x")])
    letter = dead_letter("dead", "in", 3, record, raised(1), 2500, "count")
    found = read_dead_letter(letter)
    assert found is not None
    assert (found.topic, found.partition, found.offset, found.timestamp) == ("in", 3, 17, 1234)
    assert (found.error, found.agent, found.cut_from) == ("ValueError: bad", "count", 5000)
    assert (found.key, list(found.headers)) == (b"k", [("h", b"x")])
    assert found.traceback


def test_what_others_put_into_the_topic_is_none() -> None:
    assert read_dead_letter(Record(0, 0, None, b"v", [("h", b"x")])) is None


def test_a_long_error_is_cut() -> None:
    assert len(headers_of(Record(), error=ValueError("x" * 10**6))["streamapp-error"]) == 2000


def test_an_error_that_is_no_text_is_told_all_the_same() -> None:
    assert headers_of(Record(), error=ValueError("\udcff"))["streamapp-error"] == b"ValueError: ?"


BYTES = st.integers(0, 3000).map(lambda size: b"x" * size)


@QUICK
@given(st.none() | BYTES, st.none() | BYTES, st.lists(st.tuples(st.just("h"), BYTES), max_size=3))
def test_it_always_fits(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    record = Record(5, 0, key, value, headers)
    letter = dead_letter("dead", "in", 3, record, raised(50), 1000, "count")
    assert letter.size <= 1000
    assert dict(letter.headers)["streamapp-offset"] == b"5"
