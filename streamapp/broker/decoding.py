"""Looking into record batches: timestamps to find, keys to compact by.

The broker keeps batches opaque; these are the few questions that only their records answer. A batch
in a codec that is not installed is taken as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from . import batches
from .errors import ErrorCode, Refused
from .log import PartitionLog

_NO_LIMIT: Final = 1 << 30


def records(data: bytes) -> Iterator[Any]:
    """The records of one batch, as aiokafka's parser has them.

    Raises `UnsupportedCodecError` when the codec is not installed, and what the parser raises
    when the records are damaged.
    """
    batch = MemoryRecords(data).next_batch()
    return iter(()) if batch is None else iter(batch)


def without(header: batches.Header, data: bytes, keep: Sequence[Any]) -> bytes:
    """The batch with only the records `keep` (at least one), each at its own offset."""
    codec = header.attributes & batches.COMPRESSION
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, _NO_LIMIT)
    for record in keep:
        delta = record.offset - header.base_offset
        builder.append(delta, record.timestamp, record.key, record.value, record.headers)
    built = bytes(builder.build())
    fresh = batches.parse(built)
    stamped = header.attributes & batches.LOG_APPEND_TIME
    return batches.rebuilt(
        header,
        built[batches.HEADER_SIZE :],
        len(keep),
        codec=fresh.attributes & batches.COMPRESSION,
        base_timestamp=fresh.base_timestamp,
        newest=header.max_timestamp if stamped else fresh.max_timestamp,
    )


def require_keys(data: bytes) -> None:
    """A compacted topic takes no record without a key, as in Kafka; raises `Refused`."""
    try:
        if all(record.key is not None for record in records(data)):
            return
    except UnsupportedCodecError:
        return
    except Exception as error:
        raise Refused(ErrorCode.corrupt_message, f"the records cannot be read: {error}") from error
    raise Refused(ErrorCode.invalid_record, "a compacted topic takes no record without a key")


def find_timestamp(log: PartitionLog, timestamp: int, limit: int) -> tuple[int, int] | None:
    """Offset and timestamp of the first record below `limit` that is not older (KIP-79)."""
    for entry in log.candidates(timestamp):
        if entry.base >= limit:
            return None
        if entry.newest < timestamp:
            continue
        data = log.read([entry])
        if batches.parse(data).is_control:
            continue
        for offset, time in _times(data):
            if time >= timestamp and log.start <= offset < limit:
                return offset, time
    return None


def newest_timestamp(log: PartitionLog) -> tuple[int, int] | None:
    """Offset and timestamp of the record with the highest timestamp (KIP-734)."""
    best: tuple[int, int] | None = None
    for entry in log.entries:
        if best is not None and entry.newest <= best[1]:
            continue
        data = log.read([entry])
        if batches.parse(data).is_control:
            continue
        for offset, time in _times(data):
            if offset >= log.start and (best is None or time > best[1]):
                best = offset, time
    return best


def _times(data: bytes) -> list[tuple[int, int]]:
    header = batches.parse(data)
    try:
        return [(record.offset, record.timestamp) for record in records(data)]
    except UnsupportedCodecError:
        return [(header.base_offset, header.max_timestamp)]
