"""A task on trial: the engine's own, fed by hand, with a log in memory behind it.

A test decides when a batch is processed, committed or rolled back, and when the task is opened
anew by another worker.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from streamapp import App
from streamapp.engine.checkpoint import Checkpoint, Slice, Surroundings
from streamapp.engine.marker import MARKER_KEY, encode
from streamapp.engine.outbox import Outgoing
from streamapp.engine.task import Task
from streamapp.state.store import Store, StoreMemory
from streamapp.testing.log import Log
from streamapp.testing.restoring import restore

__all__ = ["Record", "TaskOnTrial", "an_app", "json_records"]

MEMORY = StoreMemory(16 << 20)


class Record(NamedTuple):
    """A record as a consumer gets it."""

    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b""
    headers: Sequence[tuple[str, bytes]] = ()


def an_app(name: str = "app", **options: Any) -> App:
    """An application that nothing is known of yet."""
    return App(
        name,
        broker="kafka://127.0.0.1:1",
        autodiscover=False,
        web_enabled=False,
        topic_partitions=4,
        **options,
    )


def json_records(values: Iterable[Any], start: int = 0, at: int = 0) -> list[Record]:
    """Records with JSON values, at consecutive offsets, all with the same timestamp."""
    return [
        Record(start + index, at, None, json.dumps(value).encode())
        for index, value in enumerate(values)
    ]


class TaskOnTrial:
    """One task of one topology."""

    def __init__(
        self,
        app: App,
        directory: Path,
        *,
        topology: str | None = None,
        partition: int = 0,
        partitions: int = 4,
        limits: dict[str, int] | None = None,
    ) -> None:
        topologies = app.topologies()
        self.topology = next(t for t in topologies if topology in (None, t.name))
        self.now = 1_000_000
        self.log = Log(partitions)
        names = {source.name for t in topologies for source in t.sources}
        names |= {key_by.name for t in topologies for key_by in t.key_bys}
        self.log.partitions.update(dict.fromkeys(names, partitions))
        self.committed: list[Outgoing] = []
        self._app = app
        self._partition = partition
        self._directory = directory
        self._generation = 0
        self._limits = limits or {}
        self.task = self._open()

    def _open(self) -> Task:
        self._generation += 1
        store = Store(self._directory / str(self._generation), "app/topology/0", MEMORY)
        surroundings = Surroundings(
            clock=lambda: self.now,
            partitions=self.log.partitions,
            limits=self._limits,
            worker="test",
            dead_letter_topic=self._app.dead_letter_topic,
        )
        task = Task(self.topology, self._partition, store, self._app.engine_settings, surroundings)
        restore(task, store, self.log)
        return task

    async def moved(self) -> None:
        """Let another worker take the task over, with nothing but what was committed."""
        await self.task.close()
        self.task = self._open()

    def slice(
        self, records: Sequence[Record] | Iterable[Any], *, topic: str | None = None
    ) -> Slice:
        """The next slice of a source: records, or values that become JSON at the clock's time."""
        name = topic or self.topology.sources[0].name
        begin = self.task.marker.sources[name]
        found = list(records)
        if found and not isinstance(found[0], Record):
            found = json_records(found, begin, self.now)
        return Slice(name, begin, begin + len(found), found)

    async def process(
        self, records: Iterable[Any] = (), *, topic: str | None = None, caught_up: bool = False
    ) -> Checkpoint:
        """Process one slice (or none) without committing it."""
        part = self.slice(records, topic=topic)
        names = {source.name for source in self.topology.sources} if caught_up else set()
        return await self.task.process([part] if part.records else [], names)

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write what the transaction publishes, and tell the task."""
        changes = list(checkpoint.changelog(self.topology, self._partition))
        marker = Outgoing(
            self.topology.checkpoint_topic, MARKER_KEY, encode(checkpoint.marker), self._partition
        )
        self.log.append([*changes, marker], self.now, 0)
        self.committed += checkpoint.outputs
        ends = {
            writes.table: self.log.end(self.topology.changelog(writes.table), self._partition)
            for writes in checkpoint.writes
        }
        self.task.committed(dataclasses.replace(checkpoint), ends, 1.0)

    async def step(
        self, records: Iterable[Any] = (), *, topic: str | None = None, caught_up: bool = False
    ) -> Checkpoint:
        """Process one slice (or none) and commit it."""
        checkpoint = await self.process(records, topic=topic, caught_up=caught_up)
        self.commit(checkpoint)
        return checkpoint

    async def close(self) -> None:
        """Close the task."""
        await self.task.close()
