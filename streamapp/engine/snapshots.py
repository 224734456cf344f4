"""Snapshots of the stores: taken while the tasks are at work, fetched when a store is gone.

A task whose disk is lost begins with the youngest snapshot, and reads the changelog's tail, as it
would behind a store of its own. A snapshot is never believed more than such a store: it has to be
the task's, not beyond its marker and its changelogs, young enough to have missed no tombstone, and
whole. Without one that is all this, the changelog is read from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamapp.engine.attended import Attended, Stalled
from streamapp.engine.copies import Span, positions_in, why_outdated
from streamapp.engine.marker import Marker, Progress
from streamapp.engine.snapshot_archive import Manifest, Sent, SnapshotArchive, SnapshotPlace
from streamapp.engine.stores import TaskStores, progress_of
from streamapp.engine.topology import Topology
from streamapp.errors import StoreError
from streamapp.faults import fault_point
from streamapp.state.store import Store

if TYPE_CHECKING:
    from streamapp.engine.group import Group

__all__ = ["Snapshots", "take_at_intervals"]

log = logging.getLogger(__name__)

#: How long the place may take for a piece of a download, and for a file of an upload, in seconds,
#: before it is given up.
FETCH_WITHIN = 60.0
UPLOAD_WITHIN = 600.0
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
        #: An upload that nobody waits for any more; it may be going on.
        self._hanging: Attended[Sent] | None = None
        #: The checkpoint of each task's last snapshot from here, and when it was known to be the last.
        self._taken: dict[int, tuple[tuple[str, int], int]] = {}

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
        if self._hanging is not None and self._hanging.alive:
            raise StoreError("the one before it still waits for the place")
        store = self._stores.opened(partition)
        # What is in memory is written behind the scenes first: linking would do it under the
        # interpreter's lock, and so does a flush that has to wait for another one.
        await self._flushed(store)
        store.flush()
        await self._flushed(store)
        # From here to the copy there is no await: nobody writes, and nobody closes it.
        progress = progress_of(store)
        if progress is None:
            return False
        checkpoint = progress.marker.incarnation, progress.marker.sequence
        # One of the same checkpoint does for as long as it is not half way to being too old.
        since = progress.at - self._stores.tombstones_kept // 2
        taken, at = self._taken.get(partition, (None, 0))
        if checkpoint == taken and at > since:
            return False
        about = Manifest(
            owner=self._stores.owner(partition),
            incarnation=progress.marker.incarnation,
            tables=progress.marker.tables,
            sequence=progress.marker.sequence,
            positions=progress.positions,
            at=progress.at,
            taken=self._clock(),
        )
        copy = self._stores.beside(partition, "snapshot")
        store.checkpoint(copy)
        fault_point("snapshot.checkpointed")
        archive = self.archive(partition)

        uploading = Attended(
            lambda moved: archive.upload(copy, about, moved, since),
            f"snapshot of {partition}",
            UPLOAD_WITHIN,
        )
        try:
            sent = await uploading.run()
        except BaseException:
            self._hanging = uploading
            raise
        finally:
            # Whoever still reads it finds files gone, and fails.
            await self._stores.discard(copy)
        self._taken[partition] = checkpoint, sent.at
        log.info(
            "%s/%d has a snapshot after checkpoint %d, %.1f MB of it new",
            self._topology.name,
            partition,
            about.sequence,
            sent.size / 1e6,
        )
        return True

    @staticmethod
    async def _flushed(store: Store) -> None:
        while store.flushing:  # noqa: ASYNC110  (RocksDB tells nobody when it is done)
            await asyncio.sleep(_FLUSHING)

    # ------------------------------------------------------------------ fetching

    async def fetch(self, partition: int, marker: Marker, spans: Mapping[str, Span]) -> Store:
        """Put the furthest snapshot that fits in the place of a task's open store, and open it.

        Arguments:
            marker: of the task's last checkpoint.
            spans: of its changelogs, by table.

        Returns:
            The store that is open then: without a snapshot that fits, an empty one.

        Raises:
            OSError: as `TaskStores.put`.
            StoreError: too.
        """
        archive = self.archive(partition)
        name = f"{self._topology.name}/{partition}"
        try:
            manifests = await Attended(
                lambda moved: archive.manifests(), f"snapshots of {name}", FETCH_WITHIN
            ).run()
        except Exception as error:
            # Each filesystem has errors of its own, and the changelog has it all.
            log.warning(
                "%s: its snapshots cannot be read, the changelog is restored: %s", name, error
            )
            return self._stores.opened(partition)
        for manifest in manifests:
            try:
                self._check(partition, manifest, marker, spans)
                directory = await self._download(partition, archive, manifest)
            except Exception as error:
                log.warning(
                    "%s: its snapshot after checkpoint %d is not used: %s",
                    name,
                    manifest.sequence,
                    error,
                )
                if isinstance(error, Stalled):  # so would the others
                    break
                continue
            store = await self._stores.put(partition, directory, manifest.sequence)
            if store.progress is not None:
                log.info(
                    "%s begins with its snapshot after checkpoint %d of %d",
                    name,
                    manifest.sequence,
                    marker.sequence,
                )
                break
        return self._stores.opened(partition)

    async def _download(self, partition: int, archive: SnapshotArchive, manifest: Manifest) -> Path:
        """Return a directory with a store."""
        directory = self._stores.beside(partition, "download")

        def download(moved: Callable[[], None]) -> Path:
            try:
                archive.download(manifest, directory, moved)
            except BaseException:
                Store.remove(directory)
                raise
            return directory

        return await Attended(
            download, f"download of {partition}", FETCH_WITHIN, discard=Store.remove
        ).run()

    def _check(
        self, partition: int, manifest: Manifest, marker: Marker, spans: Mapping[str, Span]
    ) -> None:
        """Look whether a snapshot fits.

        Raises:
            StoreError: it does not.
        """
        if manifest.owner != self._stores.owner(partition):
            raise StoreError(f"it belongs to {manifest.owner}")
        copied = Marker(incarnation=manifest.incarnation, tables=manifest.tables)
        copy = Progress(marker=copied, positions=manifest.positions)
        why = why_outdated(copy, marker, spans)
        if why is not None:
            raise StoreError(why)
        if manifest.sequence > marker.sequence or any(
            position > spans[table].end
            for table, position in positions_in(copy, marker).items()
            if table in spans
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
