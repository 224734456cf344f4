"""A batch: the records of one partition in a range of offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from streamapp.engine.topic import Topic
from streamapp.state.cursor import Cursor
from streamapp.state.time import to_milliseconds

__all__ = ["Batch", "DeadLetter", "Record"]


class Record(Protocol):
    """What a batch needs of a record: aiokafka's own, and the records of its parser, have it."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


#: Called with a record that cannot be read, and why; it goes to the dead-letter topic.
DeadLetter = Callable[[Record, Exception], None]


class Batch:
    """The records of `topic`, `partition` in `[from_offset, until_offset)`.

    Iterates over the decoded values and keeps the task's cursor at the record at hand. The columns
    (`values`, `keys`, `timestamps`, `offsets`, `headers`, `event_times`) have one entry a record,
    in order. Values are decoded on first use; one that cannot be decoded goes to the dead-letter
    topic and is not in the batch.

    `from_offset` is where the batch before ended, and `until_offset` covers control records: the
    ranges of a partition meet.
    """

    __slots__ = (
        "_cursor",
        "_dead_letter",
        "_keys",
        "_records",
        "_source",
        "_times",
        "_values",
        "from_offset",
        "partition",
        "topic",
        "until_offset",
    )

    def __init__(
        self,
        source: Topic,
        partition: int,
        from_offset: int,
        until_offset: int,
        records: Sequence[Record],
        cursor: Cursor,
        dead_letter: DeadLetter,
    ) -> None:
        self.topic = source.name
        self.partition = partition
        self.from_offset = from_offset
        self.until_offset = until_offset
        self._source = source
        self._records = records
        self._cursor = cursor
        self._dead_letter = dead_letter
        self._values: list[Any] | None = None
        self._keys: list[Any] | None = None
        self._times: list[int] | None = None

    @property
    def id(self) -> str:
        """`topic:partition:from-until`; the same records have the same id for ever."""
        return f"{self.topic}:{self.partition}:{self.from_offset}-{self.until_offset}"

    def __repr__(self) -> str:
        return f"<Batch {self.id}>"

    # ------------------------------------------------------------------ columns

    @property
    def records(self) -> Sequence[Record]:
        """The records as they came, without those that could not be decoded."""
        if self._values is None:
            self._decode()
        return self._records

    @property
    def values(self) -> list[Any]:
        """The decoded values."""
        if self._values is None:
            self._decode()
        assert self._values is not None
        return self._values

    @property
    def keys(self) -> list[Any]:
        """The keys: decoded where the topic has a key type, bytes otherwise."""
        records = self.records
        if self._keys is None:
            self._keys = [record.key for record in records]
        return self._keys

    @property
    def timestamps(self) -> list[int]:
        """The records' timestamps, in milliseconds."""
        return [record.timestamp for record in self.records]

    @property
    def offsets(self) -> list[int]:
        """The records' offsets."""
        return [record.offset for record in self.records]

    @property
    def headers(self) -> list[Sequence[tuple[str, bytes]]]:
        """The records' headers."""
        return [record.headers for record in self.records]

    @property
    def event_times(self) -> list[int]:
        """When the records happened, in milliseconds."""
        if self._values is None:
            self._decode()
        if self._times is None:
            self._times = self._find_times()
        return self._times

    def _find_times(self) -> list[int]:
        find = self._source.event_times
        if find is None and self._source.event_time_header is None:
            return [record.timestamp for record in self._records]
        if find is not None:
            try:
                return find(self.values)
            except Exception:
                return self._find_times_one_by_one()
        return self._find_times_one_by_one()

    def _find_times_one_by_one(self) -> list[int]:
        """Return the times of the records that have one; the others go to the dead letters."""
        keys, values, records = self.keys, self.values, self._records
        kept, times = [], []
        for index, (record, value) in enumerate(zip(records, values, strict=True)):
            try:
                times.append(self._time_of(record, value))
            except Exception as error:
                self._dead_letter(record, error)
                continue
            kept.append(index)
        self._values = [values[i] for i in kept]
        self._records = [records[i] for i in kept]
        self._keys = [keys[i] for i in kept]
        return times

    def _time_of(self, record: Record, value: Any) -> int:
        name, find = self._source.event_time_header, self._source.event_times
        if name is not None:
            raw = next((found for header, found in record.headers if header == name), None)
            if raw is None:
                raise ValueError(f"the record has no header {name!r} with its event time")
            text = raw.decode()
            return to_milliseconds(int(text) if text.lstrip("-").isdecimal() else text)
        if find is None or record.value is None:
            # A tombstone has no fields: it happened when it was published.
            return record.timestamp
        return find([value])[0]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return self._walk(self.values)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield `(key, value)` of each record."""
        values = self.values
        return self._walk(list(zip(self.keys, values, strict=True)))

    def _walk(self, entries: list[Any]) -> Iterator[Any]:
        cursor = self._cursor
        before = cursor.index
        cursor.times = self.event_times
        for cursor.index, entry in enumerate(entries):
            yield entry
        # After the loop no record is at hand; after one within another loop, that loop's is.
        cursor.index = before

    def at_hand(self) -> None:
        """Make this the batch of the cursor, before its first record."""
        self._cursor.times = self.event_times
        self._cursor.index = -1

    # ------------------------------------------------------------------ decoding

    def _decode(self) -> None:
        decode = self._source.value_codec.decode
        try:
            self._values = [None if r.value is None else decode(r.value) for r in self._records]
            if self._source.typed_keys:
                decode_key = self._source.key_codec.decode
                self._keys = [None if r.key is None else decode_key(r.key) for r in self._records]
        except Exception:
            self._decode_one_by_one()
        if self._source.event_times is not None or self._source.event_time_header is not None:
            # A value whose event time cannot be read is as bad as one that cannot be decoded:
            # found here, before an agent has seen the batch.
            self.event_times  # noqa: B018

    def _decode_one_by_one(self) -> None:
        decode, decode_key = self._source.value_codec.decode, self._source.key_codec.decode
        records, values, keys = [], [], []
        for record in self._records:
            try:
                value = None if record.value is None else decode(record.value)
                key = None if record.key is None else decode_key(record.key)
            except Exception as error:
                self._dead_letter(record, error)
                continue
            records.append(record)
            values.append(value)
            keys.append(key)
        self._records, self._values = records, values
        self._keys = keys if self._source.typed_keys else None
