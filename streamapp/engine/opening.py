"""Opening a task: from a fence to a task that stands at its last checkpoint.

First the fence, then everything else: until the transactional id is this worker's, another one may
still commit, and what was read before that is worth nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from streamapp.engine.agreement import OffsetsDisagree, check_agreement, check_beginning
from streamapp.engine.foreach import Intent
from streamapp.engine.marker import Marker
from streamapp.engine.producer import TaskProducer
from streamapp.engine.progress import Opening
from streamapp.engine.restore import Restore
from streamapp.engine.task import Task
from streamapp.errors import TaskClosed
from streamapp.faults import fault_point
from streamapp.state.store import Store

if TYPE_CHECKING:
    from streamapp.engine.group import Group

__all__ = ["Opened", "Opener"]

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A task at its last checkpoint, and how many changelog records it took to get there."""

    task: Task
    restored: int


class Opener:
    """Opens one task of a group, as often as need be.

    Arguments:
        producer: under the task's transactional id.
        announce: commits what a `foreach_batch` is about to be given.
    """

    def __init__(
        self,
        group: Group,
        partition: int,
        producer: TaskProducer,
        announce: Callable[[Intent], Awaitable[None]],
    ) -> None:
        self._group = group
        self._topology = group.topology
        self._partition = partition
        self._producer = producer
        self._announce = announce

    async def open(self, epoch: int, task: Task | None, opening: Opening) -> Opened:
        """Fence whoever had the task, and bring it to its last checkpoint.

        Arguments:
            epoch: of the assignment; the group has just confirmed it.
            task: as it was open before; it is used again if its store still is.
            opening: is told how far it is.

        Raises:
            TaskClosed: it may be another worker's by now, or a broker does not answer.
            KafkaError: a broker refuses something.
            StreamappError: what there is contradicts itself.
        """
        fault_point("task.before-fence")
        await self._producer.open()
        fault_point("task.after-fence")
        group, snapshots = self._group, self._group.snapshots
        store = await self._take_store(promoted=task is None)
        restore = Restore(
            group.readers,
            self._topology,
            self._partition,
            store,
            group.surroundings.clock,
            partial(self._agreed, epoch),
            opening,
            self._leave_store,
            None if snapshots is None else partial(snapshots.fetch, self._partition),
        )
        marker, positions = await restore.run()
        if task is not None:
            await task.abort()
        if task is None or task.store is not restore.store:
            task = Task(
                self._topology, self._partition, restore.store, group.settings, group.surroundings
            )
            if self._topology.presents:
                task.announce = self._announce
        task.restored(marker or Marker(), positions)
        task.announced(restore.intent)
        return Opened(task, restore.records)

    async def _agreed(self, epoch: int, marker: Marker | None) -> None:
        """Compare the marker's offsets, or that there are none yet, with the group's."""
        topology, group = self._topology, self._group
        names = (self._partition, topology.name, topology.group, topology.checkpoint_topic)
        sources = [source.name for source in topology.sources]
        try:
            if marker is not None:
                known = {name: marker.sources[name] for name in sources if name in marker.sources}
                await check_agreement(group.committed, known, *names)
            elif topology.tables or topology.presents:
                await check_beginning(group.committed, sources, *names)
        except OffsetsDisagree as error:
            # A worker that was still since it read the marker sees what the next owner has committed.
            if await group.membership.confirmed(epoch):
                raise
            raise TaskClosed(
                "the group's offsets have moved, and others may have its partitions by now"
            ) from error

    async def _take_store(self, *, promoted: bool) -> Store:
        """Return the task's store: as a standby has kept it, if this worker was one."""
        await self._group.standby.settled(self._partition)
        if promoted and self._group.stores.is_open(self._partition):
            fault_point("task.promotion")
        return await self._group.stores.open(self._partition)

    async def _leave_store(self, why: str, marker: Marker) -> Store:
        """Return an empty store in place of one that cannot be gone on from."""
        stores = self._group.stores
        progress = stores.progress(self._partition)
        left = "" if progress is None else progress.marker.incarnation
        if marker.reset and left == marker.replaces:
            log.info(
                "%s/%d: its store is of the state before a reset, and is removed",
                self._topology.name,
                self._partition,
            )
            return await stores.make_anew(self._partition)
        return await stores.leave(self._partition, why)
