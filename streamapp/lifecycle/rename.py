"""A renamed topology goes on from where it stood under its old name.

What is named after the topology moves: markers, the group's offsets, the place in the ledger. Changelogs are
named after their tables and stay. Local stores are named after both, and are restored anew.

The crash scenarios: each task's marker under the new name is written, in one transaction with the group's
offsets and an entry in the ledger, before the first one under the old name goes; workers refuse to start until
each task has one (`streamapp.engine.renamed`). Run again, it leaves out what it has done.
"""

from __future__ import annotations

import dataclasses
import time

import msgspec
from aiokafka import TopicPartition

from streamapp.engine.app import App
from streamapp.engine.marker import Marker
from streamapp.engine.topology import Topology
from streamapp.faults import fault_point
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.reset import reset_entry
from streamapp.lifecycle.errors import LifecycleError
from streamapp.lifecycle.fence import entry_record, fenced, marker_record
from streamapp.lifecycle.membership import refuse_members
from streamapp.lifecycle.topics import delete_topic, make_topics, task_count
from streamapp.state.table import WindowedTable

__all__ = ["Rename", "TopologyRename"]


class TopologyRename(msgspec.Struct, kw_only=True):
    """What a rename does: where each task goes on, by `topic:partition`."""

    old: str
    new: str
    tasks: int
    offsets: dict[str, int]


class Rename:
    """Moves what a topology has under its old name.

    Arguments:
        reader: connected.
        old: a name that no agent of the application has as its topology any more.
        new: the topology as it is declared now.
    """

    def __init__(self, app: App, reader: LedgerReader, old: str, new: Topology) -> None:
        self._app = app
        self._reader = reader
        self._old = dataclasses.replace(new, name=old)
        self._new = new

    async def plan(self) -> TopologyRename:
        """Return what would be done; nothing is written.

        Raises:
            LifecycleError: workers are running, the old name is in use, is another application's or has
                left nothing, the new one has checkpoints of its own, or a source grew.
        """
        await refuse_members(self._reader.admin, [self._old, self._new])
        names = [topology.name for topology in self._app.topologies()]
        if self._old.name in names:
            raise LifecycleError(
                f"the topology {self._old.name} is declared by the application: it was not renamed"
            )
        if self._new.presents:
            raise LifecycleError(
                f"{self._new.name} is a foreach_batch: the outside system knows its batches by its name. Keep the name, "
                f"@app.foreach_batch(…, name={self._old.name!r}), or begin anew: streamapp reset {self._new.name}"
            )
        self._refuse_windows_behind()
        partitions = await self._reader.partitions(self._old.checkpoint_topic)
        markers = await self._reader.markers(partitions)
        if not markers:
            raise LifecycleError(
                f"the topology {self._old.name} has left no checkpoint: there is nothing in {self._old.checkpoint_topic}"
            )
        apps = {marker.app for marker in markers.values()} - {"", self._new.app_id}
        if apps:
            raise LifecycleError(
                f"{self._old.checkpoint_topic} has the state of another application, {', '.join(sorted(apps))}"
            )
        sources = await task_count(self._reader, self._new)
        if sources != len(partitions):
            raise LifecycleError(
                f"the topology {self._old.name} has {len(partitions)} tasks, and the sources of {self._new.name} have "
                f"{sources} partitions by now. Give it its old name back, let it follow, streamapp migrate partitions "
                f"{self._old.name} (which says what can be done where it keeps tables), and rename it then"
            )
        own = await self._reader.markers(await self._reader.partitions(self._new.checkpoint_topic))
        for partition, marker in own.items():
            if not _follows(marker, markers.get(partition)):
                raise LifecycleError(
                    f"the topology {self._new.name} has checkpoints of its own, in task {partition}: either give it a "
                    f"name of its own, or give up what {self._old.name} has left: delete the topic "
                    f"{self._old.checkpoint_topic}"
                )
        return TopologyRename(
            old=self._old.name,
            new=self._new.name,
            tasks=len(partitions),
            offsets={
                f"{topic}:{partition}": offset
                for partition, marker in sorted(markers.items())
                for topic, offset in marker.sources.items()
            },
        )

    def _refuse_windows_behind(self) -> None:
        sent = {key_by.name for key_by in self._new.key_bys}
        waiting = [
            table.name
            for topology in self._app.topologies()
            if sent & topology.feeds.keys()
            for table in topology.tables
            if isinstance(table, WindowedTable)
        ]
        if waiting:
            raise LifecycleError(
                f"the windows of {', '.join(waiting)} wait for the tasks of {self._old.name}, by name, whose records are "
                "on their way through a key_by: keep the name (topology='…' of the batch agent), or reset both"
            )

    async def run(self) -> None:
        """Move it.

        Raises:
            LifecycleError: as `plan`.
            TaskClosed: a worker has started meanwhile, or a broker does not answer: run it again.
        """
        await self.plan()
        await make_topics(self._app, self._reader, self._new)
        for tp in await self._reader.partitions(self._old.checkpoint_topic):
            await self._move(tp.partition)
            fault_point("rename.moved")
        await delete_topic(self._reader, self._old.checkpoint_topic)

    async def _move(self, partition: int) -> None:
        app, reader = self._app, self._reader
        async with (
            fenced(app, reader, self._old, partition) as (_, marker),
            fenced(app, reader, self._new, partition) as (producer, moved),
        ):
            if marker is None or moved is not None:
                return
            entry = reset_entry(
                self._new.name,
                partition,
                marker,
                marker.sources,
                why=f"renamed from {self._old.name}",
                worker="streamapp migrate rename",
                guarantee=app.engine_settings.guarantee,
                at=round(time.time() * 1000),
                kind="renamed",
            )
            following = msgspec.structs.replace(marker, sequence=entry.sequence)
            offsets = {
                TopicPartition(topic, partition): offset for topic, offset in marker.sources.items()
            }
            await producer.commit(
                [marker_record(self._new, partition, following), entry_record(self._new, entry)],
                offsets,
            )


def _follows(marker: Marker, old: Marker | None) -> bool:
    """Whether a marker is what this makes of an old one."""
    return old is not None and msgspec.structs.replace(old, sequence=old.sequence + 1) == marker
