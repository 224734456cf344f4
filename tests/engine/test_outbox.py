"""What a batch sends is kept in order, and refused when its topic would not take it."""

from __future__ import annotations

import pytest

from streamapp.engine.outbox import Outbox, Outgoing
from streamapp.errors import RecordError


def test_records_are_taken_in_order_and_once() -> None:
    outbox = Outbox({}, 1000)
    records = [Outgoing("a", b"k", b"1"), Outgoing("b", None, b"2"), Outgoing("a", None, None)]
    for record in records:
        outbox.put(record)
    assert outbox.take() == records
    assert outbox.take() == []


def test_a_record_over_its_topics_limit_is_refused_by_key_and_size() -> None:
    outbox = Outbox({"small": 500}, 10_000)
    outbox.put(Outgoing("other", b"key", b"x" * 1000))
    with pytest.raises(RecordError, match=r"small with key b'key' needs 1,131 bytes.*takes 500"):
        outbox.put(Outgoing("small", b"key", b"x" * 1000))
    assert len(outbox.take()) == 1


def test_keys_and_headers_count() -> None:
    assert Outgoing("a", b"12345", None).size == Outgoing("a", None, b"12345").size
    assert (
        Outgoing("a", None, None, headers=[("h", b"123")]).size
        >= 4 + Outgoing("a", None, None).size
    )


def test_a_header_may_have_no_value() -> None:
    """Kafka allows it, and aiokafka hands it out."""
    header: tuple[str, bytes] = ("h", None)  # type: ignore[assignment]
    assert Outgoing("a", None, None, headers=[header]).size > 0
