"""The formats of what a checkpoint writes: each says its version, and another one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from streamapp.engine.marker import (
    LedgerEntry,
    Marker,
    Progress,
    decode_entry,
    decode_marker,
    decode_progress,
    encode,
)
from streamapp.errors import StoreError

MARKER = Marker(sequence=3, sources={"orders": 7})
PROGRESS = Progress(marker=MARKER, positions={"totals": 2}, at=5)
ENTRY = LedgerEntry(
    topology="count",
    partition=0,
    sequence=3,
    worker="ada",
    epoch=1,
    guarantee="exactly_once",
    at=5,
    batches=[],
)
EACH = pytest.mark.parametrize(
    ("decode", "item"),
    [(decode_marker, MARKER), (decode_progress, PROGRESS), (decode_entry, ENTRY)],
    ids=["marker", "progress", "entry"],
)
Decode = Callable[[bytes, str], Any]


def of_format(item: Any, number: int, **changes: Any) -> bytes:
    """The item as a later version of streamapp might write it."""
    found = msgspec.to_builtins(item)
    versioned = found.get("marker", found)
    versioned |= {"format": number, **changes}
    return msgspec.json.encode(found)


@EACH
def test_what_was_written_is_read(decode: Decode, item: Any) -> None:
    assert decode(encode(item), "it") == item


@EACH
def test_another_format_is_refused(decode: Decode, item: Any) -> None:
    with pytest.raises(StoreError, match="it has format 2, this version of streamapp reads 1"):
        decode(of_format(item, 2), "it")


@EACH
def test_another_format_is_told_also_where_fields_have_other_types(
    decode: Decode, item: Any
) -> None:
    with pytest.raises(StoreError, match="it has format 2, this version of streamapp reads 1"):
        decode(of_format(item, 2, sequence="three"), "it")


@EACH
def test_what_is_no_format_of_ours_is_refused(decode: Decode, item: Any) -> None:
    with pytest.raises(StoreError, match="it is not what streamapp writes"):
        decode(b"\x00\x01", "it")
    with pytest.raises(StoreError, match="it is not what streamapp writes"):
        decode(of_format(item, 1, sequence="three"), "it")
