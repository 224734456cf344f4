"""Retention and compaction, in the background and in small steps.

Neither goes beyond the last stable offset. Compaction (Kafka's log cleaner) keeps the last record of
each key; a tombstone stays for `delete.retention.ms` after the first cleaning that met it, so that a
reader who is behind still meets it. Offsets never change. Records of aborted transactions go; a
marker goes when nothing is left of its transaction, after that same time. A producer's last batch
stays as an empty one, so that its sequence is known after a restart, and so does the last batch of
what is cleaned, so that a reader can reach the end.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Final

from aiokafka.errors import UnsupportedCodecError

from . import batches
from .batches import Header
from .decoding import records, without
from .events import LogCleaned, LogTrimmed
from .log import Aborted, Entry, PartitionLog
from .segments import Place, Rewrite
from .state import State
from .topics import Topic

#: The most keys one cleaning remembers; what does not fit is left for the next one.
MAX_KEYS: Final = 1_000_000
_LAST = attrgetter("last")


def retain(state: State, topic: Topic, now: int) -> None:
    """Apply `retention.ms` and `retention.bytes`, batch by batch."""
    if not topic.config.delete:
        return
    for each in topic.logs:
        offset = _retained_from(each, topic, now)
        if offset > each.start:
            state.record(LogTrimmed(topic.name, each.partition, offset))


def _retained_from(each: PartitionLog, topic: Topic, now: int) -> int:
    """Where the log is to start."""
    config = topic.config
    stable = each.stable
    excess = each.bytes - config.retention_bytes if config.retention_bytes >= 0 else 0
    oldest = now - config.retention_ms if config.retention_ms >= 0 else None
    offset = each.start
    for entry in each.entries:
        too_old = oldest is not None and entry.newest < oldest
        # Like Kafka, give up no more than leaves at least `retention.bytes`.
        too_much = excess >= entry.size
        if entry.last >= stable or not (too_old or too_much):
            break
        excess -= entry.size
        offset = entry.last + 1
    return offset


def is_dirty(each: PartitionLog, topic: Topic) -> bool:
    """Whether enough was appended since the last cleaning (`min.cleanable.dirty.ratio`)."""
    dirty = each.bytes - each.clean_bytes
    return dirty > 0 and dirty >= topic.config.min_dirty_ratio * each.bytes


async def compact(state: State, topic: Topic, each: PartitionLog, now: int) -> None:
    """Clean one log, giving way to other work after each batch."""
    start = each.start
    until = _cleanable_until(each, topic, now)
    if until <= each.clean_until:
        return
    entries = each.entries[: bisect_left(each.entries, until, key=_LAST)]
    horizon = max(
        (
            offset
            for offset, since in each.cleanings
            if since + topic.config.delete_retention_ms <= now
        ),
        default=0,
    )
    cleaner = _Cleaner(each, entries, until, horizon)

    def is_overtaken() -> bool:
        return each.deleted or each.start != start or not topic.config.compact

    for _ in cleaner.map_keys():
        await asyncio.sleep(0)
        if is_overtaken():
            return
    until = cleaner.until
    if until <= each.clean_until:
        return
    rewrite = each.store.rewrite(until)
    try:
        for _ in cleaner.rewrite(rewrite):
            await asyncio.sleep(0)
            if is_overtaken():
                rewrite.discard()
                return
        rewrite.commit()
    except BaseException:
        rewrite.discard()
        raise
    each.replace(until, cleaner.cleaned)
    cleanings = [mark for mark in each.cleanings if mark[0] > horizon]
    cleanings.append((until, now))
    state.record(LogCleaned(topic.name, each.partition, until, cleanings))


def _cleanable_until(each: PartitionLog, topic: Topic, now: int) -> int:
    limit = each.stable
    lag = topic.config.min_compaction_lag_ms
    if lag:
        young = (entry.base for entry in each.entries if entry.newest > now - lag)
        limit = min(limit, next(young, limit))
    return each.store.boundary(limit)


class _Cleaner:
    """One cleaning of one log, in two passes over its batches."""

    def __init__(self, each: PartitionLog, entries: list[Entry], until: int, horizon: int) -> None:
        self._log = each
        self._entries = entries
        self._horizon = horizon
        self._latest: dict[bytes, int] = {}
        self._aborted: dict[int, list[Aborted]] = {}
        for aborted in each.aborted_in(each.start, until):
            self._aborted.setdefault(aborted.producer_id, []).append(aborted)
        self.until = until
        self.cleaned: list[tuple[Header, Place]] = []

    def map_keys(self) -> Iterator[None]:
        """Find the last offset of every key."""
        for number, entry in enumerate(self._entries):
            data = self._log.read([entry])
            header = batches.parse(data)
            if not header.is_control and header.record_count and not self._is_aborted(header):
                for record in self._found(data):
                    if record.key is not None:
                        self._latest[record.key] = record.offset
            if len(self._latest) > MAX_KEYS and number + 1 < len(self._entries):
                # Later records of a key may follow, which only means that more is kept.
                self.until = self._log.store.boundary(entry.last + 1)
                last = bisect_left(self._entries, self.until, key=_LAST)
                self._entries = self._entries[:last]
                return
            yield

    def rewrite(self, rewrite: Rewrite) -> Iterator[None]:
        """Add what is to be kept of every batch."""

        def keep(data: bytes) -> None:
            self.cleaned.append((batches.parse(data), rewrite.add(data)))

        # Producer id to the number of its transaction's records that are kept.
        kept: dict[int, int] = {}
        last_of: dict[int, int] = {}
        for entry in self._entries:
            header = batches.parse(self._log.read([entry]))
            if not header.is_control and self._log.producers.get(header.producer_id):
                last_of[header.producer_id] = header.base_offset
        for entry in self._entries:
            data = self._log.read([entry])
            header = batches.parse(data)
            is_last = entry is self._entries[-1]
            if header.is_control:
                remains = kept.pop(header.producer_id, 0)
                if remains or is_last or header.base_offset >= self._horizon:
                    keep(data)
            else:
                smaller = self._clean(header, data)
                if smaller is not None:
                    keep(smaller)
                    if header.is_transactional:
                        kept[header.producer_id] = kept.get(header.producer_id, 0) + 1
                elif is_last or last_of.get(header.producer_id) == header.base_offset:
                    keep(batches.empty_batch(header))
            yield

    def _clean(self, header: Header, data: bytes) -> bytes | None:
        """The batch with the records that stay; None when none does."""
        if not header.record_count or self._is_aborted(header):
            return None
        try:
            found = list(records(data))
        except UnsupportedCodecError:
            return data
        keep = [record for record in found if self._stays(record)]
        if len(keep) == len(found):
            return data
        return without(header, data, keep) if keep else None

    def _found(self, data: bytes) -> list[Any]:
        try:
            return list(records(data))
        except UnsupportedCodecError:
            return []

    def _stays(self, record: Any) -> bool:
        key, offset = record.key, record.offset
        if key is None or self._latest.get(key, -1) > offset:
            return False
        return record.value is not None or offset >= self._horizon

    def _is_aborted(self, header: Header) -> bool:
        return header.is_transactional and any(
            each.first <= header.base_offset < each.last
            for each in self._aborted.get(header.producer_id, ())
        )


async def clean(state: State) -> None:
    """One round over all topics: retention, then compaction where enough was appended."""
    for topic in list(state.topics):
        now = state.now()
        retain(state, topic, now)
        for each in topic.logs:
            each.producers.forget_before(now - state.config.producer_expiration_ms, set(each.open))
        if topic.config.compact:
            for each in topic.logs:
                if not each.deleted and is_dirty(each, topic):
                    await compact(state, topic, each, state.now())
        await asyncio.sleep(0)
