"""Snapshots of the stores: taken while the tasks are at work, fetched when a store is gone.

A task whose disk is lost begins with the youngest snapshot, and reads the changelog's tail, as it
would behind a store of its own. A snapshot is never believed more than such a store: it has to be
the task's, not beyond its marker and its changelogs, young enough to have missed no tombstone, and
whole. Without one that is all this, the changelog is read from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamapp.engine.marker import Marker
from streamapp.engine.snapshot_archive import (
    Abandoned,
    Manifest,
    SnapshotArchive,
    SnapshotPlace,
)
from streamapp.engine.stores import TaskStores, progress_of
from streamapp.engine.topology import Topology
from streamapp.errors import StoreError
from streamapp.faults import fault_point
from streamapp.state.store import Store

if TYPE_CHECKING:
    from streamapp.engine.group import Group

__all__ = ["Snapshots", "take_at_intervals"]

log = logging.getLogger(__name__)

#: Between two looks whether RocksDB has written what was in memory, in seconds.
_FLUSHING = 0.01


class Snapshots:
    """The snapshots of one topology's tasks.

    Arguments:
        cluster: the id of the Kafka cluster; clusters may share a place.
        clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        place: SnapshotPlace,
        topology: Topology,
        stores: TaskStores,
        cluster: str,
        clock: Callable[[], int],
    ) -> None:
        self._place = place
        self._topology = topology
        self._stores = stores
        self._cluster = cluster
        self._clock = clock
        self._archives: dict[int, SnapshotArchive] = {}
        #: The checkpoint of each task's last snapshot from here.
        self._taken: dict[int, int] = {}

    def archive(self, partition: int) -> SnapshotArchive:
        """Return where a task's snapshots are."""
        archive = self._archives.get(partition)
        if archive is None:
            archive = self._archives[partition] = self._place.archive(
                self._cluster or "cluster",
                self._topology.app_id,
                self._topology.name,
                str(partition),
            )
        return archive

    # ------------------------------------------------------------------ taking

    async def take(self, partition: int) -> bool:
        """Take a snapshot of a task's store, if it is open; return whether there was something new in it.

        The event loop is held up only while RocksDB links the store's files; copying them is done
        in a thread.

        Raises:
            Exception: whatever the store or the filesystem makes impossible.
        """
        if not self._stores.is_open(partition):
            return False
        store = self._stores.open(partition)
        # What is in memory is written behind the scenes first: linking would do it under the
        # interpreter's lock, and so does a flush that has to wait for another one.
        await self._flushed(store)
        store.flush()
        await self._flushed(store)
        # From here to the copy there is no await: nobody writes, and nobody closes it.
        progress = progress_of(store)
        if progress is None or progress.marker.sequence == self._taken.get(partition):
            return False
        about = Manifest(
            owner=self._stores.owner(partition),
            sequence=progress.marker.sequence,
            positions=progress.positions,
            at=progress.at,
            taken=self._clock(),
        )
        copy = self._stores.beside(partition, "snapshot")
        store.checkpoint(copy)
        fault_point("snapshot.checkpointed")
        abandoned = threading.Event()
        try:
            sent = await asyncio.to_thread(
                self._upload, self.archive(partition), copy, about, abandoned
            )
        finally:
            abandoned.set()
        self._taken[partition] = about.sequence
        log.info(
            "%s/%d has a snapshot after checkpoint %d, %.1f MB of it new",
            self._topology.name,
            partition,
            about.sequence,
            sent / 1e6,
        )
        return True

    @staticmethod
    async def _flushed(store: Store) -> None:
        while store.flushing:  # noqa: ASYNC110  (RocksDB tells nobody when it is done)
            await asyncio.sleep(_FLUSHING)

    @staticmethod
    def _upload(
        archive: SnapshotArchive, copy: Path, about: Manifest, abandoned: threading.Event
    ) -> int:
        try:
            return archive.upload(copy, about, abandoned)
        finally:
            Store.remove(copy)

    # ------------------------------------------------------------------ fetching

    async def fetch(self, partition: int, marker: Marker, ends: Mapping[str, int]) -> Store | None:
        """Put the furthest snapshot that fits in the place of a task's open store, and open it.

        Arguments:
            marker: of the task's last checkpoint.
            ends: of its changelogs, by table.

        Returns:
            The store; `None` when there is no snapshot that fits, and the open one is left as it is.

        Raises:
            OSError: as `TaskStores.put`.
            StoreError: too.
        """
        abandoned = threading.Event()
        try:
            directory = await asyncio.to_thread(self._download, partition, marker, ends, abandoned)
        except Exception as error:
            # Each filesystem has errors of its own, and the changelog has it all.
            log.warning(
                "%s/%d: its snapshots cannot be read, the changelog is restored: %s",
                self._topology.name,
                partition,
                error,
            )
            return None
        finally:
            abandoned.set()
        return None if directory is None else self._stores.put(partition, directory)

    def _download(
        self, partition: int, marker: Marker, ends: Mapping[str, int], abandoned: threading.Event
    ) -> Path | None:
        """Return a directory with a store, or `None`."""
        archive = self.archive(partition)
        manifests = archive.manifests()
        for manifest in sorted(manifests, key=lambda each: each.sequence, reverse=True):
            directory = self._stores.beside(partition, "download")
            try:
                self._check(partition, manifest, marker, ends)
                archive.download(manifest, directory, abandoned)
                progress = self._stores.look_into(partition, directory)
                if progress is None or progress.marker.sequence != manifest.sequence:
                    raise StoreError("it is of another checkpoint than its manifest says")
            except Abandoned:
                Store.remove(directory)
                raise
            except Exception as error:
                Store.remove(directory)
                log.warning(
                    "%s/%d: its snapshot after checkpoint %d is not used: %s",
                    self._topology.name,
                    partition,
                    manifest.sequence,
                    error,
                )
            else:
                log.info(
                    "%s/%d begins with its snapshot after checkpoint %d of %d",
                    self._topology.name,
                    partition,
                    manifest.sequence,
                    marker.sequence,
                )
                return directory
        return None

    def _check(
        self, partition: int, manifest: Manifest, marker: Marker, ends: Mapping[str, int]
    ) -> None:
        """Look whether a snapshot fits.

        Raises:
            StoreError: it does not.
        """
        if manifest.owner != self._stores.owner(partition):
            raise StoreError(f"it belongs to {manifest.owner}")
        if manifest.sequence > marker.sequence or any(
            position > ends[table]
            for table, position in manifest.positions.items()
            if table in ends
        ):
            raise StoreError(
                f"it is beyond the task's checkpoint {marker.sequence} or the ends of its changelogs: topics "
                "were deleted and made anew since"
            )
        if self._clock() - manifest.at > self._stores.tombstones_kept:
            raise StoreError("it is older than its changelogs keep deletes")


async def take_at_intervals(groups: Sequence[Group], interval: float) -> None:
    """Take snapshots of all tasks that are at work here, one after another, until cancelled.

    One that fails is tried again with the next round.
    """
    while True:
        await asyncio.sleep(interval)
        for group in groups:
            for runner in list(group.runners.values()):
                if group.snapshots is None or not runner.position_known:
                    continue
                try:
                    await group.snapshots.take(runner.partition)
                except Exception as error:
                    log.warning("%s: no snapshot was taken: %s", runner.name, error)
