"""The state stores that a worker has of one topology's tasks, open or on disk.

A store stays open while a task goes from one role to another: what a standby has followed, the
runner takes over as it is, and the other way round. Nobody else opens or closes one.

RocksDB takes its time to open and to close, and a large directory to go: all that is done in
threads, one thing at a time for each store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from streamapp.engine.marker import Progress, decode_progress
from streamapp.engine.provision import TOMBSTONES_KEPT
from streamapp.engine.store_keeper import StoreKeeper
from streamapp.engine.topology import Topology
from streamapp.errors import DamagedStoreError, StoreError
from streamapp.faults import fault_point
from streamapp.state.store import Store, StoreMemory

__all__ = ["TaskStores", "progress_of"]

log = logging.getLogger(__name__)

_Opened = TypeVar("_Opened", bound=Store | None)

_Result = TypeVar("_Result")

#: How many stores are opened, closed or moved at a time.
_THREADS = 4
#: How often a store is told that it is up to date, at most, in milliseconds.
_NOTED_EVERY = 3600 * 1000
#: What `TaskStores.beside` makes.
_BESIDE = re.compile(r"\d+\.[a-z]+\.[0-9a-f]{32}")


class TaskStores:
    """The stores of one topology on this worker.

    Arguments:
        state_directory: the worker's; each topology has a directory in it, each task one in that.
        cluster: the id of the Kafka cluster: a store is of one cluster.
        tombstones_kept: how long the topology's changelogs keep deletes, in milliseconds.
        clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        topology: Topology,
        state_directory: Path,
        memory: StoreMemory,
        cluster: str,
        tombstones_kept: int = TOMBSTONES_KEPT,
        clock: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self.tombstones_kept = tombstones_kept
        #: How often a store that gets nothing to write is to be told that it is up to date, in
        #: milliseconds; one that was not is too old some day.
        self.noted_every = min(_NOTED_EVERY, tombstones_kept // 4)
        self._clock = clock
        self._keepers: dict[int, StoreKeeper] = {}
        self._topology = topology
        self._directory = state_directory / topology.name
        self._memory = memory
        self._cluster = cluster
        self._open: dict[int, Store] = {}
        #: What threads do to stores that are not open, by task.
        self._changing: dict[int, asyncio.Task[Any]] = {}
        self._threads: ThreadPoolExecutor | None = None
        #: Those of them that are to be closed as soon as they are open.
        self._unwanted: set[int] = set()
        #: How far the stores are that are not open.
        self._closed: dict[int, int] = {}

    def survey(self) -> None:
        """Look how far the stores on disk are; this reads from disk, some milliseconds a store.

        Half a copy that a crash has left beside them is removed.
        """
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.name.isdecimal() and int(path.name) not in self._open:
                self._closed[int(path.name)] = self._position_on_disk(path)
            elif _BESIDE.fullmatch(path.name):
                Store.remove(path)

    def _position_on_disk(self, path: Path) -> int:
        """Return how far a store is; one that will be set aside when it is opened is nowhere."""
        try:
            owner, raw = Store.glance(path)
            progress = None if raw is None else decode_progress(raw, str(path))
        except Exception:
            return 0
        if progress is None or owner != self.owner(int(path.name)):
            return 0
        too_old = self._clock() - progress.at > self.tombstones_kept
        return 0 if too_old else _position(progress)

    def positions(self) -> dict[int, int]:
        """Return how far each store is: the sum of the offsets up to which it holds its changelogs."""
        return self._closed | {
            partition: _position_of(store) for partition, store in self._open.items()
        }

    def progress(self, partition: int) -> Progress | None:
        """Return what an open store knows of itself; `None` before its first checkpoint."""
        return progress_of(self._open[partition])

    def is_open(self, partition: int) -> bool:
        """Whether a task's store is open, in whatever role."""
        return partition in self._open

    def opened(self, partition: int) -> Store:
        """Return a task's store, which is open."""
        return self._open[partition]

    async def open(self, partition: int) -> Store:
        """Return a task's store, opened if it is not open; what cannot be gone on from is made anew.

        That is a store of another owner or a damaged one, which is set aside, and one that is too old.

        Raises:
            StoreError: as `StoreKeeper.open`.
        """
        await self.settled(partition)
        store = self._open.get(partition)
        if store is not None:
            return store
        return await self._change(partition, self._keeper(partition).open)

    async def make_anew(self, partition: int) -> Store:
        """Return an empty store in place of an open one, which is removed."""
        keeper = self._keeper(partition)

        def work() -> Store:
            Store.remove(keeper.path)
            if keeper.path.exists():
                raise StoreError(
                    f"the state store {keeper.path} cannot be removed: see that the worker may write there"
                )
            return keeper.open()

        return await self._closed_and_changed(partition, work)

    async def leave(self, partition: int, why: str) -> Store:
        """Return an empty store in place of an open one, which is set aside.

        Raises:
            StoreError: it cannot be.
        """
        keeper = self._keeper(partition)

        def work() -> Store:
            keeper.leave(why)
            return keeper.open()

        return await self._closed_and_changed(partition, work)

    async def put(self, partition: int, directory: Path, sequence: int) -> Store:
        """Move a store that is in a directory beside the stores into the place of an open, empty one.

        Arguments:
            sequence: the checkpoint that it has to be at.

        Returns:
            The store; an empty one, where that in the directory is no store of this task, damaged, or
            of another checkpoint.

        Raises:
            OSError: the system refuses it; neither is there then.
            StoreError: as `open`.
        """
        keeper = self._keeper(partition)

        def work() -> Store:
            try:
                self._look_into(partition, directory, sequence)
                _move(directory, keeper.path)
            except StoreError as error:
                log.warning("%s is not used: %s", directory, error)
                Store.remove(directory)
            except OSError:
                Store.remove(directory)
                raise
            return keeper.open()

        return await self._closed_and_changed(partition, work)

    def _look_into(self, partition: int, directory: Path, sequence: int) -> None:
        store = Store(directory, self.owner(partition), self._memory)
        try:
            progress = progress_of(store)
        finally:
            store.close()
        if progress is None or progress.marker.sequence != sequence:
            raise StoreError("it is of another checkpoint than its manifest says")

    async def replace(self, partition: int, error: DamagedStoreError) -> None:
        """Set a store aside that turned out to be damaged, open or not; the next open makes it anew.

        Raises:
            StoreError: it was damaged too often.
        """
        try:
            await self._closed_and_changed(
                partition, partial(self._keeper(partition).replace, error)
            )
        finally:
            self._closed.pop(partition, None)

    async def settled(self, partition: int) -> None:
        """Wait until nothing is done to a task's store in a thread."""
        while (changing := self._changing.get(partition)) is not None:
            await asyncio.wait({changing})

    async def _closed_and_changed(self, partition: int, work: Callable[[], _Opened]) -> _Opened:
        """Close a store and do something at its place, both or neither."""
        await self.settled(partition)
        store = self._open.pop(partition, None)

        def closed_and_worked() -> _Opened:
            if store is not None:
                store.close()
            return work()

        return await self._change(partition, closed_and_worked)

    async def _change(self, partition: int, work: Callable[[], _Opened]) -> _Opened:
        """Let a thread do something at the place of a store that is not open; it may open it.

        It is done to its end, also if whoever waits is cancelled: the next one waits for that.
        """
        return await asyncio.shield(self._begin(partition, work))

    def _begin(self, partition: int, work: Callable[[], _Opened]) -> asyncio.Task[_Opened]:
        changing = asyncio.get_running_loop().create_task(self._changed(partition, work))
        self._changing[partition] = changing
        return changing

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        # Of its own: whoever blocks the event loop's does not hold up a worker that stops.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, f"stores of {self._topology.name}")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def discard(self, directory: Path) -> None:
        """Remove a copy of a store that is beside the stores."""
        await asyncio.shield(self._in_thread(partial(Store.remove, directory)))

    async def _changed(self, partition: int, work: Callable[[], _Opened]) -> _Opened:
        try:
            store = await self._in_thread(work)
            if store is not None and partition in self._unwanted:
                await self._in_thread(store.close)
            elif store is not None:
                self._open[partition] = store
                self._closed.pop(partition, None)
            return store
        finally:
            self._unwanted.discard(partition)
            del self._changing[partition]

    def beside(self, partition: int, purpose: str) -> Path:
        """Return a directory, not made yet, for a copy of a store; the next start removes what is left of it."""
        # Copies that were set aside have a hyphen, and are kept.
        return self._directory / f"{partition}.{purpose}.{uuid.uuid4().hex}"

    def owner(self, partition: int) -> str:
        """Return whose state a task's store has to be."""
        return (
            f"{self._topology.app_id}/{self._topology.name}/{partition} of cluster {self._cluster}"
        )

    def _keeper(self, partition: int) -> StoreKeeper:
        keeper = self._keepers.get(partition)
        if keeper is None:
            keeper = self._keepers[partition] = StoreKeeper(
                self._directory / str(partition),
                self.owner(partition),
                self._memory,
                f"{self._topology.name}/{partition}",
                self.tombstones_kept,
                self._clock,
            )
        return keeper

    def close(self, partition: int) -> None:
        """Begin to close a task's store, if it is open or is being opened; it stays on disk."""
        if partition in self._changing:
            self._unwanted.add(partition)
            return
        store = self._open.pop(partition, None)
        if store is not None:
            self._closed[partition] = _position_of(store)
            self._begin(partition, store.close)

    async def close_all(self) -> None:
        """Close whatever is open."""
        for partition in {*self._open, *self._changing}:
            self.close(partition)
        while self._changing:
            await asyncio.wait(self._changing.values())
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)


def _move(directory: Path, place: Path) -> None:
    """Put a store where another one was: after a crash there is the one, none, or the other."""
    Store.remove(place)
    fault_point("snapshot.before-rename")
    directory.rename(place)
    parent = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def progress_of(store: Store) -> Progress | None:
    """Return what a store knows of itself; `None` before its first checkpoint."""
    raw = store.progress
    return None if raw is None else decode_progress(raw, f"the state store {store.path}")


def _position_of(store: Store) -> int:
    try:
        return _position(progress_of(store))
    except StoreError:  # it is damaged: whoever works with it finds out and sets it aside
        return 0


def _position(progress: Progress | None) -> int:
    return 0 if progress is None else sum(progress.positions.values())
