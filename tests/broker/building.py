"""Record batches as clients build them, and states of a broker without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamapp.broker import batches
from streamapp.broker.decoding import records
from streamapp.broker.log import Appended, PartitionLog
from streamapp.broker.state import BrokerConfig, State
from streamapp.broker.storage import Storage

KeyValue = tuple[bytes | None, bytes | None]


def batch(
    *pairs: KeyValue,
    producer: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    transactional: bool = False,
    timestamps: Sequence[int] | None = None,
    codec: int = 0,
) -> bytes:
    """A record batch with these keys and values; timestamps are 1000, 1001, … unless given."""
    builder = DefaultRecordBatchBuilder(
        2, codec, int(transactional), producer, epoch, sequence, 1 << 20
    )
    for number, (key, value) in enumerate(pairs):
        timestamp = 1000 + number if timestamps is None else timestamps[number]
        assert builder.append(number, timestamp, key, value, []) is not None
    return bytes(builder.build())


def append(log: PartitionLog, data: bytes, *, now: int = 5000, stamp: bool = False) -> Appended:
    """Append a batch as the Produce API does."""
    return log.append(data, batches.check(data, 1 << 20), now, stamp=stamp)


def whole(log: PartitionLog) -> list[bytes]:
    """All batches of a log."""
    return [log.read([entry]) for entry in log.entries]


def committed(log: PartitionLog) -> list[tuple[int, bytes | None, bytes | None]]:
    """What a read-committed consumer makes of a log: offset, key, value.

    It goes by the list of aborted transactions, as KIP-98 has it, not by the log's own state.
    """
    limit = log.limit(committed=True)
    found = log.entries[log.find(log.start, limit, 1 << 30, at_least_one=True)]
    pending = log.aborted_in(log.start, found[-1].last + 1) if found else []
    aborted: set[int] = set()
    seen = []
    for entry in found:
        data = log.read([entry])
        header = batches.parse(data)
        while pending and pending[0].first <= header.base_offset + header.last_offset_delta:
            aborted.add(pending.pop(0).producer_id)
        if header.is_control:
            if not batches.is_commit(data):
                aborted.discard(header.producer_id)
            continue
        if header.is_transactional and header.producer_id in aborted:
            continue
        seen += [
            (record.offset, record.key, record.value)
            for record in (records(data) if header.record_count else ())
            if record.offset >= log.start
        ]
    return seen


class Clock:
    """A clock that a test sets, in milliseconds."""

    def __init__(self, now: int = 1_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def state(
    directory: Path | None = None,
    *,
    clock: Callable[[], int] | None = None,
    wake: Callable[[int], None] = lambda due: None,
    **settings: object,
) -> tuple[State, Storage | None]:
    """A broker's state, opened from a directory if there is one."""
    config = BrokerConfig(**settings)  # type: ignore[arg-type]
    storage = None if directory is None else Storage(directory, fsync=False)
    opened = State(config, now=clock or Clock(), wake=wake, journal=storage)
    if storage is not None:
        storage.open(opened)
    return opened, storage


def close(opened: State, storage: Storage) -> None:
    """Let go of the files, as a process that ends does."""
    for log in opened.topics.logs():
        log.store.close()
    storage.close()


def pairs(*values: bytes) -> Iterable[KeyValue]:
    """Values without keys."""
    return [(None, value) for value in values]
