"""The log of one partition: batches, watermarks, open and aborted transactions.

With one broker every appended batch is replicated at once, so the high watermark is the log's end.
The last stable offset (LSO, KIP-98) is where the earliest open transaction begins: read-committed
consumers see nothing from there on, and get a list of aborted transactions for what is below.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from . import batches
from .errors import ErrorCode, Refused
from .producers import Producers
from .segments import MemoryStore, Place, Store

#: What an entry costs in memory beside its bytes, for the bound on logs in memory.
ENTRY_OVERHEAD: Final = 250


class Usage:
    """How many bytes the logs of a broker hold together."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.bytes = 0
        self.entries = 0

    @property
    def memory(self) -> int:
        """What they take in memory when they are kept there."""
        return self.bytes + ENTRY_OVERHEAD * self.entries


class Entry:
    """One batch of the log: where its bytes are, and what is needed of its header."""

    __slots__ = ("base", "last", "newest", "peak", "place", "size")

    def __init__(
        self, base: int, last: int, size: int, newest: int, peak: int, place: Place
    ) -> None:
        self.base = base
        self.last = last
        self.size = size
        self.newest = newest  # the batch's highest timestamp
        self.peak = peak  # the highest timestamp up to here: searchable, it never falls
        self.place = place


class Aborted(NamedTuple):
    """An aborted transaction: its first record on this partition, and its marker."""

    last: int
    first: int
    producer_id: int


class Appended(NamedTuple):
    """Where a batch went; `time` is its append time in milliseconds, -1 under CreateTime."""

    base_offset: int
    time: int
    duplicate: bool = False


_LAST = attrgetter("last")
_PEAK = attrgetter("peak")
_BY_FIRST = attrgetter("first")


class PartitionLog:
    """The batches of one partition. Not for more than one thread."""

    def __init__(
        self, topic: str, partition: int, store: Store | None = None, usage: Usage | None = None
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.store: Store = MemoryStore() if store is None else store
        self.entries: list[Entry] = []
        self.start = 0
        self.end = 0
        self.bytes = 0
        self._usage = usage or Usage()
        self.producers = Producers()
        #: Producer id to first offset; transactions open in this order, so the first is the LSO.
        self.open: dict[int, int] = {}
        self.aborted: list[Aborted] = []
        #: Called with this log when more can be read, or when it is gone.
        self.watchers: set[Callable[[PartitionLog], None]] = set()
        #: Below this offset the log is compacted.
        self.clean_until = 0
        #: How many bytes are below.
        self.clean_bytes = 0
        #: How far it was compacted, and when (milliseconds), while tombstones there must stay.
        self.cleanings: list[tuple[int, int]] = []
        self.deleted = False

    # -- reading ------------------------------------------------------------------------------

    @property
    def stable(self) -> int:
        """The last stable offset."""
        for first in self.open.values():
            return max(first, self.start)
        return self.end

    def limit(self, *, committed: bool) -> int:
        """The offset that a consumer may read up to."""
        return self.stable if committed else self.end

    def find(self, offset: int, limit: int, max_bytes: int, *, at_least_one: bool) -> slice:
        """The entries to answer a fetch with: from the batch with `offset`, all below `limit`.

        No more than `max_bytes`, but with `at_least_one` never nothing when there is something
        (KIP-74).
        """
        entries = self.entries
        first = bisect_left(entries, offset, key=_LAST)
        last = first
        total = 0
        while last < len(entries):
            entry = entries[last]
            total += entry.size
            if entry.last >= limit or (total > max_bytes and not (at_least_one and last == first)):
                break
            last += 1
        return slice(first, last)

    def available(self, offset: int, limit: int, enough: int) -> int:
        """How many bytes could be read from `offset` on; counting stops at `enough`."""
        entries = self.entries
        total = 0
        for index in range(bisect_left(entries, offset, key=_LAST), len(entries)):
            entry = entries[index]
            if entry.last >= limit:
                break
            total += entry.size
            if total >= enough:
                break
        return total

    def read(self, entries: Sequence[Entry]) -> bytes:
        """The bytes of consecutive entries."""
        return self.store.read([entry.place for entry in entries]) if entries else b""

    def aborted_in(self, first: int, until: int) -> list[Aborted]:
        """The aborted transactions that have records in `[first, until)`, by first offset."""
        found = [
            each
            for each in self.aborted[bisect_left(self.aborted, (first,)) :]
            if each.first < until
        ]
        found.sort(key=_BY_FIRST)
        return found

    def candidates(self, timestamp: int) -> Sequence[Entry]:
        """The entries among which the first record at or after `timestamp` is to be found."""
        index = bisect_left(self.entries, timestamp, key=_PEAK)
        return self.entries[index:]

    def check_offset(self, offset: int) -> None:
        """Raises `Refused` with OFFSET_OUT_OF_RANGE when nothing can be fetched there."""
        if not self.start <= offset <= self.end:
            raise Refused(
                ErrorCode.offset_out_of_range,
                f"{self.topic}:{self.partition} has [{self.start}, {self.end}), not {offset}",
            )

    # -- appending ----------------------------------------------------------------------------

    def append(self, data: bytes, header: batches.Header, now: int, *, stamp: bool) -> Appended:
        """Append a batch that `batches.check` accepted; with `stamp`, under the time of `now`.

        Raises `Refused` for a fenced producer or a gap in its sequence. A duplicate is not
        appended; the answer is the one it had the first time.
        """
        if header.producer_id >= 0:
            known = self.producers.check(header)
            if known is not None:
                return Appended(*known, duplicate=True)
        if stamp:
            data = batches.stamped(data, now)
            header = batches.parse(data)
        base = self.end
        data = batches.placed(data, base)
        place = self.store.append(data, base, base + header.last_offset_delta + 1)
        self._enter(header, base, len(data), place)
        append_time = now if stamp else -1
        if header.producer_id >= 0:
            self.producers.note(header, base, append_time, now)
            if header.is_transactional:
                self.open.setdefault(header.producer_id, base)
        self._wake()
        return Appended(base, append_time)

    def append_marker(self, producer_id: int, epoch: int, now: int, *, commit: bool) -> int:
        """End a producer's transaction here with a control batch; returns its offset."""
        offset = self.end
        data = batches.control_batch(offset, producer_id, epoch, commit=commit, timestamp=now)
        place = self.store.append(data, offset, offset + 1)
        self._enter(batches.parse(data), offset, len(data), place)
        self._ended(producer_id, epoch, offset, now, commit=commit)
        self._wake()
        return offset

    def replay(self, data: bytes, place: Place, now: int) -> None:
        """Take up a batch that was read back from disk."""
        header = batches.parse(data)
        base = header.base_offset
        if base + header.last_offset_delta >= self.start:
            self._enter(header, base, len(data), place)
        if header.is_control:
            commit = batches.is_commit(data)
            self._ended(header.producer_id, header.producer_epoch, base, now, commit=commit)
        elif header.producer_id >= 0:
            stamp = bool(header.attributes & batches.LOG_APPEND_TIME)
            self.producers.note(header, base, header.max_timestamp if stamp else -1, now)
            if header.is_transactional and header.record_count:
                self.open.setdefault(header.producer_id, base)

    def _enter(self, header: batches.Header, base: int, size: int, place: Place) -> None:
        newest = header.max_timestamp
        peak = max(newest, self.entries[-1].peak) if self.entries else newest
        last = base + header.last_offset_delta
        self.entries.append(Entry(base, last, size, newest, peak, place))
        self._count(size, 1)
        self.end = last + 1

    def _ended(self, producer_id: int, epoch: int, offset: int, now: int, *, commit: bool) -> None:
        first = self.open.pop(producer_id, None)
        if first is not None and not commit:
            self.aborted.append(Aborted(offset, first, producer_id))
        self.producers.note_marker(producer_id, epoch, now)

    # -- giving up what is old ----------------------------------------------------------------

    def trim(self, offset: int) -> None:
        """Give up everything below `offset`: the log starts there now."""
        if offset <= self.start:
            return
        self.start = offset
        self.end = max(self.end, offset)
        self.clean_until = max(self.clean_until, offset)
        gone = bisect_left(self.entries, offset, key=_LAST)
        if gone:
            self._count(-sum(entry.size for entry in self.entries[:gone]), -gone)
            del self.entries[:gone]
            self.count_clean()
        del self.aborted[: bisect_left(self.aborted, (offset,))]
        self.store.drop_before(offset)
        self._wake()

    def replace(self, until: int, cleaned: Sequence[tuple[batches.Header, Place]]) -> None:
        """Put compacted batches in place of all below `until`; offsets stay as they are."""
        peak = -1
        fresh = []
        for header, place in cleaned:
            peak = max(peak, header.max_timestamp)
            base, newest = header.base_offset, header.max_timestamp
            size = header.length + batches.LENGTH_OVERHEAD
            last = base + header.last_offset_delta
            fresh.append(Entry(base, last, size, newest, peak, place))
        rest = self.entries[bisect_left(self.entries, until, key=_LAST) :]
        for entry in rest:
            peak = max(peak, entry.newest)
            entry.peak = peak
        before = len(self.entries)
        self.entries = fresh + rest
        size = sum(entry.size for entry in self.entries)
        self._count(size - self.bytes, len(self.entries) - before)
        self.clean_until = until
        self.clean_bytes = sum(entry.size for entry in fresh)
        # An aborted transaction whose marker is gone must not be listed: readers would wait for
        # the marker, and drop what the producer has committed since.
        markers = {header.base_offset for header, _ in cleaned if header.is_control}
        self.aborted = [each for each in self.aborted if each.last >= until or each.last in markers]

    def count_clean(self) -> None:
        """Count anew how many bytes are compacted."""
        clean = self.entries[: bisect_left(self.entries, self.clean_until, key=_LAST)]
        self.clean_bytes = sum(entry.size for entry in clean)

    def retire(self) -> None:
        """The topic is deleted: wake whoever waits, remove the bytes."""
        self.deleted = True
        self._count(-self.bytes, -len(self.entries))
        self._wake()
        self.store.delete()

    def _count(self, size: int, entries: int) -> None:
        self.bytes += size
        self._usage.bytes += size
        self._usage.entries += entries

    def _wake(self) -> None:
        for watcher in tuple(self.watchers):
            watcher(self)
