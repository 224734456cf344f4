"""Record batches: what is accepted, what is rewritten, what the broker writes itself."""

from __future__ import annotations

import struct

import pytest
from aiokafka.record.control_record import ABORT_MARKER, COMMIT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c

from streamapp.broker import batches
from streamapp.broker.errors import ErrorCode, Refused
from tests.broker.building import batch

A_BATCH = batch((b"key", b"value"), (None, b"other"))


def with_covered(data: bytes, at: int, new: bytes) -> bytes:
    """The batch with bytes replaced that the checksum covers, under a new checksum."""
    changed = data[:at] + new + data[at + len(new) :]
    return changed[:17] + struct.pack(">I", crc32c(changed[21:])) + changed[21:]


def test_a_batch_that_a_client_built_is_accepted() -> None:
    header = batches.check(A_BATCH, len(A_BATCH))

    assert (header.record_count, header.last_offset_delta) == (2, 1)
    assert (header.base_timestamp, header.max_timestamp) == (1000, 1001)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", ErrorCode.corrupt_message, id="nothing"),
        pytest.param(A_BATCH[:60], ErrorCode.corrupt_message, id="half a header"),
        pytest.param(A_BATCH[:-1], ErrorCode.corrupt_message, id="torn"),
        pytest.param(A_BATCH[:-1] + b"?", ErrorCode.corrupt_message, id="flipped"),
        pytest.param(A_BATCH + A_BATCH, ErrorCode.invalid_record, id="two batches"),
        pytest.param(
            A_BATCH[:16] + b"\1" + A_BATCH[17:],
            ErrorCode.unsupported_for_message_format,
            id="message format 1",
        ),
        pytest.param(
            batches.control_batch(0, 1, 1, commit=True, timestamp=0),
            ErrorCode.invalid_record,
            id="a marker",
        ),
        pytest.param(
            with_covered(A_BATCH, 23, struct.pack(">i", 7)),
            ErrorCode.invalid_record,
            id="offsets with holes",
        ),
        pytest.param(
            with_covered(A_BATCH, 21, struct.pack(">h", batches.TRANSACTIONAL)),
            ErrorCode.invalid_record,
            id="a transaction of nobody",
        ),
        pytest.param(
            batch((b"k", b"v"), producer=7, epoch=0, sequence=-1),
            ErrorCode.invalid_record,
            id="no sequence",
        ),
    ],
)
def test_what_kafka_refuses_is_refused(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(Refused) as refused:
        batches.check(data, 1 << 20)

    assert refused.value.code is code


def test_a_batch_of_more_than_the_allowed_bytes_is_too_large() -> None:
    with pytest.raises(Refused) as refused:
        batches.check(A_BATCH, len(A_BATCH) - 1)

    assert refused.value.code is ErrorCode.message_too_large


def test_placing_a_batch_changes_its_offset_and_leaves_the_checksum_valid() -> None:
    placed = batches.placed(A_BATCH, 42)

    assert batches.check(placed, 1 << 20).base_offset == 42
    assert placed[16:] == A_BATCH[16:]
    (first, second) = MemoryRecords(placed).next_batch()
    assert (first.offset, second.offset) == (42, 43)


def test_stamping_a_batch_gives_every_record_the_time_of_the_append() -> None:
    stamped = batches.stamped(A_BATCH, 9999)

    batches.check(stamped, 1 << 20)
    assert [record.timestamp for record in MemoryRecords(stamped).next_batch()] == [9999, 9999]


@pytest.mark.parametrize(("commit", "kind"), [(True, COMMIT_MARKER), (False, ABORT_MARKER)])
def test_markers_are_what_clients_take_for_markers(commit: bool, kind: ControlRecord) -> None:
    data = batches.control_batch(17, 1234, 5, commit=commit, timestamp=777)

    parsed = MemoryRecords(data).next_batch()
    assert parsed.validate_crc()
    assert parsed.is_control_batch
    assert parsed.is_transactional
    assert (parsed.producer_id, parsed.base_offset, parsed.next_offset) == (1234, 17, 18)
    (record,) = parsed
    assert record.timestamp == 777
    assert ControlRecord.parse(record.key) == kind
    assert batches.is_commit(data) is commit


def test_an_empty_batch_keeps_the_place_and_the_sequence_of_a_batch() -> None:
    header = batches.parse(
        batches.placed(batch((b"k", b"v"), (b"l", b"w"), producer=3, epoch=1, sequence=8), 20)
    )

    empty = batches.empty_batch(header)

    parsed = batches.parse(empty)
    assert len(empty) == parsed.length + 12 == batches.HEADER_SIZE
    assert MemoryRecords(empty).next_batch().validate_crc()
    assert parsed.record_count == 0
    assert (parsed.base_offset, parsed.last_sequence, parsed.producer_id) == (20, 9, 3)
    assert MemoryRecords(empty).next_batch().next_offset == 22
