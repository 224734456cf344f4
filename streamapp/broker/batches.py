"""Record batches of format 2 (KIP-98): their header, their checks, control batches.

A batch stays the bytes that its producer sent. The broker rewrites the base offset and the leader
epoch, which the CRC does not cover, and, for topics with LogAppendTime, the timestamp and the CRC.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from crc32c import crc32c

from .errors import ErrorCode, Refused

HEADER: Final = Struct(">qiibIhiqqqhii")
HEADER_SIZE: Final = HEADER.size
#: The base offset and the length, which every batch begins with and the length does not count.
LENGTH_OVERHEAD: Final = 12
CRC_AT: Final = 17
CRC_FROM: Final = 21

COMPRESSION: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20

#: The epoch of the only leader there is.
LEADER_EPOCH: Final = 0

_OFFSET = Struct(">q")
_OFFSET_LENGTH = Struct(">qi")
_EPOCH = Struct(">i")
_CRC = Struct(">I")
_CONTROL_KEY = Struct(">hh")
_CONTROL_VALUE = Struct(">hi")
_COVERED = Struct(">hiqqqhii")
_TIMESTAMPS = Struct(">hiqq")


class Header(NamedTuple):
    """The 61 bytes that a batch begins with."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def last_sequence(self) -> int:
        """The sequence number of the last record; numbers wrap at 2**31."""
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF


def parse(data: bytes) -> Header:
    """The header of the batch that `data` begins with."""
    return Header._make(HEADER.unpack_from(data))


def check(data: bytes, max_bytes: int) -> Header:
    """The header of the one batch a client sent, after Kafka's own checks (`LogValidator`).

    Raises `Refused` with the error code that a partition leader answers.
    """
    size = len(data)
    if size < HEADER_SIZE:
        if size > 16 and data[16] < 2:
            raise Refused(ErrorCode.unsupported_for_message_format, "record batches only")
        raise Refused(ErrorCode.corrupt_message, f"{size} bytes are no record batch")
    header = parse(data)
    if header.magic != 2:
        raise Refused(
            ErrorCode.unsupported_for_message_format, f"message format {header.magic}, not 2"
        )
    if header.length + LENGTH_OVERHEAD < size and header.length + LENGTH_OVERHEAD >= HEADER_SIZE:
        raise Refused(ErrorCode.invalid_record, "more than one record batch for a partition")
    if header.length + LENGTH_OVERHEAD != size:
        raise Refused(ErrorCode.corrupt_message, "the batch is not as long as it says")
    if size > max_bytes:
        raise Refused(ErrorCode.message_too_large, f"{size} bytes, {max_bytes} are allowed")
    if crc32c(memoryview(data)[CRC_FROM:]) != header.crc:
        raise Refused(ErrorCode.corrupt_message, "the checksum does not match")
    if header.is_control:
        raise Refused(ErrorCode.invalid_record, "clients may not write control records")
    if header.record_count <= 0 or header.last_offset_delta != header.record_count - 1:
        raise Refused(ErrorCode.invalid_record, "the record count and the offsets disagree")
    if header.producer_id < 0:
        if header.is_transactional:
            raise Refused(ErrorCode.invalid_record, "a transactional batch without producer id")
    elif header.base_sequence < 0 or header.producer_epoch < 0:
        raise Refused(ErrorCode.invalid_record, "an idempotent batch without sequence")
    return header


def placed(data: bytes, base_offset: int) -> bytes:
    """The batch with its place in the log written into it."""
    return b"".join((_OFFSET.pack(base_offset), data[8:12], _EPOCH.pack(LEADER_EPOCH), data[16:]))


def stamped(data: bytes, timestamp: int) -> bytes:
    """The batch with `timestamp` (milliseconds) as the time of its append, under a new CRC."""
    attributes, delta, base, _ = _TIMESTAMPS.unpack_from(data, CRC_FROM)
    covered = b"".join(
        (
            _TIMESTAMPS.pack(attributes | LOG_APPEND_TIME, delta, base, timestamp),
            data[CRC_FROM + _TIMESTAMPS.size :],
        )
    )
    return data[:CRC_AT] + _CRC.pack(crc32c(covered)) + covered


def control_batch(
    base_offset: int, producer_id: int, producer_epoch: int, *, commit: bool, timestamp: int
) -> bytes:
    """The marker that ends a transaction on a partition: one control record (KIP-98)."""
    key = _CONTROL_KEY.pack(0, 1 if commit else 0)
    value = _CONTROL_VALUE.pack(0, 0)
    # A record: attributes, timestamp and offset deltas, then key, value and no headers; every
    # number is small enough for its zigzag varint to be one byte.
    body = b"".join(
        (b"\0\0\0", bytes((len(key) * 2,)), key, bytes((len(value) * 2,)), value, b"\0")
    )
    record = bytes((len(body) * 2,)) + body
    covered = (
        _COVERED.pack(
            TRANSACTIONAL | CONTROL, 0, timestamp, timestamp, producer_id, producer_epoch, -1, 1
        )
        + record
    )
    length = CRC_FROM - LENGTH_OVERHEAD + len(covered)
    return b"".join(
        (
            _OFFSET_LENGTH.pack(base_offset, length),
            _EPOCH.pack(LEADER_EPOCH),
            b"\x02",
            _CRC.pack(crc32c(covered)),
            covered,
        )
    )


def rebuilt(
    header: Header, records: bytes, count: int, *, codec: int, base_timestamp: int, newest: int
) -> bytes:
    """A batch at the place of `header`, from the same producer, with other records.

    `records` is what follows the header, under compression `codec`; its timestamp deltas count
    from `base_timestamp`, its offset deltas from the base offset.
    """
    covered = (
        _COVERED.pack(
            (header.attributes & ~COMPRESSION) | codec,
            header.last_offset_delta,
            base_timestamp,
            newest,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            count,
        )
        + records
    )
    length = CRC_FROM - LENGTH_OVERHEAD + len(covered)
    return b"".join(
        (
            _OFFSET_LENGTH.pack(header.base_offset, length),
            _EPOCH.pack(LEADER_EPOCH),
            b"\x02",
            _CRC.pack(crc32c(covered)),
            covered,
        )
    )


def empty_batch(header: Header) -> bytes:
    """A batch without records at the place of `header`: keeps a producer's last sequence."""
    return rebuilt(
        header,
        b"",
        0,
        codec=0,
        base_timestamp=header.base_timestamp,
        newest=header.max_timestamp,
    )


def is_commit(data: bytes) -> bool:
    """Whether a control batch is a commit marker (else it is an abort marker)."""
    # Record length, attributes, two deltas and the key's length come before the key.
    _, kind = _CONTROL_KEY.unpack_from(data, HEADER_SIZE + 5)
    return bool(kind == 1)
