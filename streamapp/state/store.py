"""The state store of a task: one RocksDB for all its tables, and where the task stands.

A store is written by one write batch a checkpoint, after the transaction is committed: data and
`progress` reach the disk together, so a crash leaves the store behind the changelog, never ahead
and never half. Keys are `table name, NUL, key`; everything that is not a table's begins with NUL.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
)

from streamapp.errors import DamagedStoreError, ForeignStoreError, FullDiskError, StoreError
from streamapp.state.damage import first_logged, is_damage, is_full, is_held, last_flushed

__all__ = ["FORMAT", "Store", "StoreMemory", "TableWrites"]

log = logging.getLogger(__name__)

#: The version of the layout of keys; a store of another version is refused.
FORMAT = 1

_FORMAT_KEY = b"\0format"
_OWNER_KEY = b"\0owner"
_PROGRESS_KEY = b"\0progress"


class StoreMemory:
    """The memory that all stores of a worker share: one block cache, memtables charged to it.

    Arguments:
        limit: bytes for blocks and memtables together; indexes of open files come on top.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.cache = Cache(limit)
        self.write_buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            max(limit // 2, 1 << 20), False, self.cache
        )

    def options(self) -> Options:
        """Return the RocksDB options of a store that lives on this memory."""
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self.cache)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
        blocks.set_bloom_filter(10, False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_manager(self.write_buffers)
        options.set_write_buffer_size(min(max(self.limit // 8, 1 << 20), 16 << 20))
        # A memtable takes memory in blocks of this size: with the default of up to 1 MiB, a hundred
        # stores that hold next to nothing take a hundred.
        options.set_arena_block_size(64 << 10)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_keep_log_file_num(2)
        options.set_max_background_jobs(2)
        options.set_max_open_files(128)
        return options


@dataclass(slots=True)
class TableWrites:
    """What one checkpoint changes in one table: keys without the table's prefix."""

    table: str
    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    deletes: list[bytes] = field(default_factory=list)
    #: Half-open ranges of keys that go as a whole. The keys that were in them are among `deletes`
    #: too, for the changelog, which knows no ranges.
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.puts or self.deletes or self.ranges)


def prefix_of(table: str) -> bytes:
    """Return what a table's keys begin with in the store."""
    return table.encode() + b"\0"


class _Scan:
    """An iterator that its store can take back: RocksDB keeps its lock while one is alive.

    It keeps the options and the bound too: RocksDB only points to that memory, and a scan whose
    bound is freed ends early without an error (rocksdict 0.3.29). So does one that comes upon a
    damaged block, which is why the end is looked at.

    Arguments:
        failed: raises what a store makes of an error.
    """

    __slots__ = ("__weakref__", "_bound", "_database", "_failed", "_last", "_pairs")

    def __init__(
        self, database: Any, start: bytes, end: bytes, failed: Callable[[Exception], None]
    ) -> None:
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        self._bound = (options, end)
        self._database = database
        self._failed = failed
        self._last = start
        self._pairs: Iterator[tuple[bytes, bytes]] = database.items(
            from_key=start, read_opt=options
        )

    def __iter__(self) -> _Scan:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        try:
            pair = next(self._pairs)
        except StopIteration:
            self._look_behind()
            raise
        self._last = pair[0]
        return pair

    def _look_behind(self) -> None:
        """Go from the last pair to the next one once more: this iterator tells why there is none."""
        cursor = self._database.iter(read_opt=self._bound[0])
        cursor.seek(self._last)
        if cursor.valid():
            cursor.next()
        try:
            cursor.status()
        except Exception as error:
            self._failed(error)
            raise

    def end(self, error: StoreError) -> None:
        """Let go of the database; whoever asks for the next pair gets the error."""

        def raising() -> Iterator[tuple[bytes, bytes]]:
            raise error
            yield

        self._pairs = raising()
        self._database = None


class Store:
    """A task's RocksDB.

    Arguments:
        path: its directory, made when it is missing.
        owner: whose state this is (application, topology, partition); a store of another owner is
            refused.
        memory: shared by the stores of a worker.

    Raises:
        ForeignStoreError: it belongs to another owner.
        DamagedStoreError: what is on the disk is not what was written.
        FullDiskError: the disk has no room.
        StoreError: it is held by another process, of another format, or the system refuses it.
    """

    def __init__(self, path: Path, owner: str, memory: StoreMemory) -> None:
        self.path = path
        #: What was found to be wrong with it, also if whoever read has made nothing of it.
        self.damage: DamagedStoreError | None = None
        self._closed = False
        self._scans: WeakSet[_Scan] = WeakSet()
        try:
            path.mkdir(parents=True, exist_ok=True)
            logged = first_logged(path)
            self._db: Any = Rdict(str(path), memory.options())
        except Exception as error:
            message = str(error)
            if is_held(message):
                raise StoreError(
                    f"the state store {path} does not open ({message}): another process has it open: stop that worker "
                    "or start this one under another name"
                ) from error
            self._check(error)
            raise StoreError(
                f"the state store {path} does not open ({message}): see that the worker may write there and has "
                "room; or remove the directory to rebuild it from the changelog"
            ) from error
        flushed = last_flushed(path)
        if logged is not None and flushed is not None and logged > flushed + 1:
            self.close()
            raise DamagedStoreError(
                f"the state store {path} is damaged: its manifest ends at write {flushed}, and its log begins with "
                f"{logged}"
            )
        try:
            self._claim(owner)
        except BaseException:
            self.close()
            raise

    def _claim(self, owner: str) -> None:
        found_format = self.get(_FORMAT_KEY)
        found_owner = self.get(_OWNER_KEY)
        if found_format is None:
            batch = WriteBatch(raw_mode=True)
            batch.put(_FORMAT_KEY, str(FORMAT).encode())
            batch.put(_OWNER_KEY, owner.encode())
            self._write(batch)
        elif found_format != str(FORMAT).encode():
            raise StoreError(
                f"the state store {self.path} has format {found_format.decode()}, this version of streamapp "
                f"writes {FORMAT}: run the version that wrote it, or remove the directory to rebuild it"
            )
        elif found_owner != owner.encode():
            theirs = "nobody" if found_owner is None else found_owner.decode(errors="replace")
            raise ForeignStoreError(
                f"the state store {self.path} belongs to {theirs}, not to {owner}: "
                "give each application a state directory of its own"
            )

    @property
    def progress(self) -> bytes | None:
        """Where the task stood at the last checkpoint that this store holds."""
        return self.get(_PROGRESS_KEY)

    @property
    def holds_data(self) -> bool:
        """Whether there is anything of any table in it."""
        return self.first(b"\x01", b"\xff") is not None

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a full key (with the table's prefix).

        Raises:
            DamagedStoreError: as everything that reads or writes.
        """
        try:
            found: bytes | None = self._db.get(key)
        except Exception as error:
            self._check(error)
            raise
        return found

    def _check(self, error: Exception) -> None:
        """Raise what an error of RocksDB says of this store, if it says anything of it."""
        message = str(error)
        if is_damage(message):
            self.damage = DamagedStoreError(f"the state store {self.path} is damaged ({message})")
            raise self.damage from error
        if is_full(message):
            raise FullDiskError(
                f"the disk is full on which the state store {self.path} is ({message}): make room; nothing that is "
                "committed is lost"
            ) from error
        if message.startswith("IO error"):
            raise StoreError(
                f"the state store {self.path} cannot be used ({message}): see that the disk has room and can be "
                "written; nothing that is committed is lost"
            ) from error

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the pairs in `[start, end)` of full keys, in order, as they are at the call.

        Raises:
            StoreError: on the next pair, when the store was closed meanwhile.
        """
        scan = _Scan(self._db, start, end, self._check)
        self._scans.add(scan)
        return scan

    def first(self, start: bytes, end: bytes) -> bytes | None:
        """Return the least full key in `[start, end)`."""
        found = next(_Scan(self._db, start, end, self._check), None)
        return None if found is None else found[0]

    def write(self, writes: Iterable[TableWrites], progress: bytes | None) -> None:
        """Bring one checkpoint to disk: data and progress in one write batch."""
        batch = WriteBatch(raw_mode=True)
        for table in writes:
            prefix = prefix_of(table.table)
            for start, end in table.ranges:
                batch.delete_range(prefix + start, prefix + end)
            for key, value in table.puts:
                batch.put(prefix + key, value)
            for key in table.deletes:
                if not any(start <= key < end for start, end in table.ranges):
                    batch.delete(prefix + key)
        if progress is not None:
            batch.put(_PROGRESS_KEY, progress)
        self._write(batch)

    def clear(self, table: str) -> None:
        """Remove all that there is of a table."""
        prefix = prefix_of(table)
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(prefix, prefix[:-1] + b"\1")
        self._write(batch)

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch)
        except Exception as error:
            self._check(error)
            raise

    @property
    def stalled(self) -> bool:
        """Whether a write would wait for flushes or compactions, and the whole interpreter with it."""
        return any(
            self._db.property_int_value(name)
            for name in ("rocksdb.is-write-stopped", "rocksdb.actual-delayed-write-rate")
        )

    @property
    def flushing(self) -> bool:
        """Whether something that was in memory is on its way to a file."""
        return bool(self._db.property_int_value("rocksdb.num-immutable-mem-table"))

    def flush(self) -> None:
        """Begin to bring what is in memory to a file; while it is `flushing` already, this waits."""
        self._db.flush(False)

    def checkpoint(self, path: Path) -> None:
        """Put a store that is as this one is now into a new directory on the same disk.

        Files are linked, not copied, and those that change no more stay linked: it takes as long as
        what is in memory takes to flush, and the whole interpreter waits for it.

        Raises:
            DamagedStoreError: as everything that reads or writes.
            StoreError: the directory is there already, or the system refuses it.
        """
        try:
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            self._check(error)
            raise StoreError(f"the state store {self.path} cannot be copied: {error}") from error

    def close(self) -> None:
        """Close the database, and the scans that nobody finished; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        for scan in list(self._scans):
            scan.end(StoreError(f"the state store {self.path} was closed during a scan"))
        try:
            self._db.close()
        except Exception as error:
            # What was not flushed is in the write-ahead log, and what is damaged shows again.
            log.warning("closing the state store %s: %s", self.path, error)

    @staticmethod
    def read_only(path: Path) -> Rdict:
        """Open a store beside its owner, for looking at it."""
        return Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())

    @classmethod
    def glance(cls, path: Path) -> tuple[str | None, bytes | None]:
        """Return the owner and the progress of a store, without opening it for work.

        Raises:
            Exception: what RocksDB says of one that cannot be read.
        """
        database = cls.read_only(path)
        try:
            owner = database.get(_OWNER_KEY)
            return None if owner is None else owner.decode(), database.get(_PROGRESS_KEY)
        finally:
            database.close()

    @staticmethod
    def remove(path: Path) -> None:
        """Delete a store that is not open."""
        shutil.rmtree(path, ignore_errors=True)
