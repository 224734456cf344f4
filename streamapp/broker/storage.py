"""The data directory: the journal of events, the files of the partitions, and a lock on both.

    lock             held while a broker runs
    journal          events (`streamapp.broker.events`), in frames (`streamapp.broker.journal`)
    logs/ID/N/       the segments of partition N of the topic with that id

An event is in the journal before it has an effect, a batch in its file before it is acknowledged.
Opening the directory replays both; the journal is rewritten as a snapshot when it has grown.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from . import events
from .errors import BrokerError, DataDirectoryLocked, JournalCorrupt
from .events import AnyEvent
from .files import FileStore
from .journal import FrameFile
from .log import PartitionLog
from .state import State

log = logging.getLogger(__name__)

#: The journal is rewritten when it is longer than this, and longer than four snapshots.
_REWRITE_FROM: Final = 1 << 20
#: Segments are kept smaller than Kafka's gigabyte: only whole segments give their space back.
_MAX_SEGMENT_BYTES: Final = 64 << 20


class Storage:
    """An open data directory."""

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        self._directory = directory
        self._fsync = fsync
        self._lock: int | None = None
        self._journal: FrameFile | None = None
        self._snapshot_size = 0

    def open(self, state: State) -> None:
        """Lock the directory and bring `state` to where it was left.

        Raises `DataDirectoryLocked`, `JournalCorrupt`, or OSError.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._open_journal(state)
            self._open_logs(state)
            self._delete_strays(state)
            state.transactions.skip_given()
            state.mend()
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise DataDirectoryLocked(self._directory) from None

    def _open_journal(self, state: State) -> None:
        path = self._directory / "journal"
        self._temporary.unlink(missing_ok=True)
        journal = self._journal = FrameFile(path)
        first = True
        for position, payload in journal.recover():
            try:
                event = events.decode(payload)
            except msgspec.MsgspecError as error:
                raise JournalCorrupt(path, position, f"no event: {error}") from None
            if first:
                self._check_format(event)
                first = False
            state.apply(event, replaying=True)
        if first:
            self.append(events.encode(events.Began(events.FORMAT, state.cluster_id)))

    def _check_format(self, event: AnyEvent) -> None:
        if not isinstance(event, events.Began) or event.version != events.FORMAT:
            raise BrokerError(
                f"{self._directory} has format {getattr(event, 'version', 'unknown')}, this broker "
                f"reads format {events.FORMAT}; start it on another directory"
            )

    def _open_logs(self, state: State) -> None:
        now = state.now()
        for each in state.topics.logs():
            store = each.store
            assert isinstance(store, FileStore)
            for data, place in store.recover():
                each.replay(data, place, now)
            each.end = max(each.end, store.end, each.start)
            each.count_clean()
            store.drop_before(each.start)

    def _delete_strays(self, state: State) -> None:
        """Delete the files of topics that were deleted just before a crash."""
        known = {str(topic.topic_id) for topic in state.topics}
        logs = self._directory / "logs"
        for path in logs.iterdir() if logs.exists() else ():
            if path.name not in known:
                shutil.rmtree(path)

    def open_log(self, state: State, topic_id: int, name: str, partition: int) -> PartitionLog:
        """The log of a partition in this directory; its batches come with `open`."""

        def segment_bytes() -> int:
            topic = state.topics.get(name)
            wanted = _MAX_SEGMENT_BYTES if topic is None else topic.config.segment_bytes
            return min(wanted, _MAX_SEGMENT_BYTES)

        directory = self._directory / "logs" / str(topic_id) / str(partition)
        return PartitionLog(name, partition, FileStore(directory, segment_bytes), state.usage)

    def append(self, data: bytes) -> None:
        """Journal an event."""
        assert self._journal is not None, "the data directory is closed"
        self._journal.append(data)
        if self._fsync:
            self._journal.flush()

    def tidy(self, snapshot: Iterable[AnyEvent]) -> None:
        """Rewrite the journal as a snapshot, if it has grown enough to be worth it."""
        journal = self._journal
        if journal is None or journal.size < max(_REWRITE_FROM, 4 * self._snapshot_size):
            return
        self.rewrite(snapshot)

    def rewrite(self, snapshot: Iterable[AnyEvent]) -> None:
        """Replace the journal by a snapshot: the new file appears whole, by a rename."""
        assert self._journal is not None
        self._temporary.unlink(missing_ok=True)
        fresh = FrameFile(self._temporary)
        for event in snapshot:
            fresh.append(events.encode(event))
        fresh.flush()
        self._temporary.rename(self._journal.path)
        fresh.path = self._journal.path
        self._journal.close()
        self._journal = fresh
        self._snapshot_size = fresh.size

    @property
    def _temporary(self) -> Path:
        return self._directory / "journal.tmp"

    def flush(self) -> None:
        """Have the disk keep the journal."""
        if self._journal is not None:
            self._journal.flush()

    def close(self) -> None:
        """Close the journal and let go of the lock."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
