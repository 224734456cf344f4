"""A worker without Kafka: the tasks of some topologies, on a log in memory and stores of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Literal

from streamapp.engine.checkpoint import Checkpoint, Slice, Surroundings
from streamapp.engine.error_handling import ErrorHandling
from streamapp.engine.foreach import INTENT_KEY, Intent
from streamapp.engine.marker import MARKER_KEY, LedgerEntry, encode
from streamapp.engine.outbox import Outgoing
from streamapp.engine.parts import Fault, Part
from streamapp.engine.settings import EngineSettings, Guarantee
from streamapp.engine.task import Task
from streamapp.engine.topology import Topology
from streamapp.errors import AgentStopped, StreamappError, TaskClosed
from streamapp.state.store import Store, StoreMemory
from streamapp.testing.log import Log, LoggedRecord
from streamapp.testing.restoring import restore

__all__ = ["Moment", "Worker"]

Moment = Literal["before-commit", "after-commit"]

_STORE_MEMORY = 16 << 20
#: More checkpoints than this without coming to rest: the agents feed each other for ever.
_RESTLESS = 100_000
#: Linux has it; in a container it may be small.
_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 256 << 20


class Worker:
    """Runs every task of its topologies, one after the other, until there is nothing left to do.

    Arguments:
        error_policies: follow the agents' policies; without it, what they raise is raised.

    Attributes:
        tasks: by topology and partition; none before `open` and after `close`.
        outputs: what the tasks have published, in order.
        ledger: one entry a checkpoint, in the order of commits.
        cut_every: records at which a batch is cut; `None`: as the agents declare.
        crash_at: where the next checkpoint is cut short.
    """

    def __init__(
        self,
        topologies: Sequence[Topology],
        settings: EngineSettings,
        surroundings: Surroundings,
        log: Log,
        error_policies: bool = False,
    ) -> None:
        self.tasks: dict[str, list[Task]] = {}
        self.outputs: list[LoggedRecord] = []
        self.ledger: list[LedgerEntry] = []
        self.cut_every: int | None = None
        self.crash_at: Moment | None = None
        self._topologies = topologies
        self._settings = settings
        self._world = surroundings
        self._log = log
        self._error_policies = error_policies
        self._handling: dict[str, ErrorHandling] = {}
        #: The tasks that their agents' policies have stopped, by name.
        self._stopped: set[str] = set()

    # ------------------------------------------------------------------ its life

    def start(self) -> None:
        """Open the tasks on new stores, in the context of the caller as it is now."""
        self._directory = tempfile.TemporaryDirectory(
            prefix="streamapp-test-", dir=_memory_directory()
        )
        self._memory = StoreMemory(_STORE_MEMORY)
        # What is bound later is the test's: a table that an agent did not declare has no state in
        # its task, here as in a worker.
        self._context = copy_context()
        self._open()

    async def stop(self) -> None:
        """Close the tasks and remove the stores."""
        await self._close()
        self._directory.cleanup()

    async def restart(self, *, keep_stores: bool) -> None:
        """Close the tasks and open them anew, with the stores that they had or without."""
        await self._close()
        if not keep_stores:
            for topology in self._topologies:
                shutil.rmtree(self.directory / topology.name)
        self._handling.clear()
        self._stopped.clear()
        self._open()

    @property
    def directory(self) -> Path:
        """Where the stores are."""
        return Path(self._directory.name)

    def _open(self) -> None:
        for topology in self._topologies:
            count = self._log.partitions[topology.sources[0].name]
            self.tasks[topology.name] = [self._open_task(topology, p) for p in range(count)]

    def _open_task(self, topology: Topology, partition: int) -> Task:
        path = self.directory / topology.name / str(partition)
        store = Store(path, f"{topology.app_id}/{topology.name}/{partition}", self._memory)
        context = self._context.copy()
        task = context.run(Task, topology, partition, store, self._settings, self._world)
        restore(task, store, self._log)
        if topology.presents:
            task.announce = partial(self._announce, task)
        return task

    async def _close(self) -> None:
        tasks, self.tasks = self.tasks, {}
        for members in tasks.values():
            for task in members:
                await task.close()

    # ------------------------------------------------------------------ at work

    async def run(self) -> None:
        """Process until nothing is left to do: every record, and every window that has to close.

        Raises:
            Exception: what an agent raised; its batch is rolled back and comes first next time.
        """
        for _ in range(_RESTLESS):
            if not await self._step():
                return
        raise StreamappError(
            f"after {_RESTLESS:,} rounds there is still something to do: do agents send to each other in a circle?"
        )

    async def _step(self) -> bool:
        """Let each task that has something to do make a checkpoint; return whether one had."""
        worked = False
        for topology in self._topologies:
            for partition in range(len(self.tasks[topology.name])):
                task = self.tasks[topology.name][partition]
                if task.name in self._stopped:
                    continue
                slices = self._take(task)
                if slices or task.due(self._caught_up(task, slices)):
                    worked = True
                    await self._checkpoint(task, slices)
        return worked

    def _take(self, task: Task) -> list[Slice]:
        room = self.cut_every or task.topology.max_records
        slices = []
        if (again := task.pending) is not None:
            # As it was, wherever batches are cut now.
            room = again.until_offset - again.from_offset
        for source in task.topology.sources:
            position = task.marker.sources[source.name]
            records = self._log.read(source.name, task.partition)[position : position + room]
            if records:
                room -= len(records)
                slices.append(Slice(source.name, position, position + len(records), records))
        return slices

    def _caught_up(self, task: Task, slices: Sequence[Slice]) -> set[str]:
        positions = task.marker.sources | {part.topic: part.until_offset for part in slices}
        return {
            source.name
            for source in task.topology.sources
            if positions[source.name] == self._log.end(source.name, task.partition)
        }

    async def _checkpoint(self, task: Task, slices: list[Slice]) -> None:
        """Commit a batch, in one checkpoint or, under error policies, in one for each of its parts."""
        guarantee = self._settings.guarantee
        if guarantee is Guarantee.AT_MOST_ONCE and slices:
            self._commit(task, task.skipping(slices))
        caught_up = self._caught_up(task, slices)
        parts = deque([Part(slices)])
        while parts:
            part = parts.popleft()
            try:
                checkpoint = await task.process(
                    part.slices, () if parts else caught_up, part.condemned
                )
            except Exception as error:
                fault = task.fault(error)
                await task.abort()
                if not self._error_policies:
                    raise
                if not await self._failed(task, part, fault, parts):
                    return
            except BaseException:
                await task.abort()
                raise
            else:
                if not await self._finish(task, checkpoint):
                    return

    async def _failed(self, task: Task, part: Part, fault: Fault, parts: deque[Part]) -> bool:
        """Put in place of a part what its agent's policy says; return whether the batch goes on."""
        handling = self._handling.setdefault(
            task.name,
            ErrorHandling(
                task.topology, task.partition, self._settings, lambda: self._world.clock() / 1000
            ),
        )
        try:
            instead, _ = handling.failed(part, fault)
        except AgentStopped:
            await task.abort()
            self._stopped.add(task.name)
            return False
        except TaskClosed:
            await task.close()
            tasks = self.tasks[task.topology.name]
            tasks[task.partition] = self._open_task(task.topology, task.partition)
            return False
        parts.extendleft(reversed(instead))
        return True

    async def _finish(self, task: Task, checkpoint: Checkpoint) -> bool:
        """Publish a checkpoint; return whether the worker lives on."""
        if self._settings.guarantee is Guarantee.AT_LEAST_ONCE:
            leaving = checkpoint.leaving(task.topology)
            self._publish(leaving, checkpoint.marker.sequence)
        moment, self.crash_at = self.crash_at, None
        if moment == "before-commit":
            await self.restart(keep_stores=True)
        elif moment == "after-commit":
            self._write(task, checkpoint)
            await self.restart(keep_stores=True)
        else:
            self._commit(task, checkpoint)
            if task.name in self._handling:
                self._handling[task.name].succeeded()
        return moment is None

    def _commit(self, task: Task, checkpoint: Checkpoint) -> None:
        task.committed(checkpoint, self._write(task, checkpoint), None)

    def _write(self, task: Task, checkpoint: Checkpoint) -> dict[str, int]:
        """Write what the transaction publishes; return where the changelogs end."""
        topology, partition = task.topology, task.partition
        self._publish(checkpoint.outputs, checkpoint.marker.sequence + partition)
        changes = list(checkpoint.changelog(topology, partition))
        marker = Outgoing(
            topology.checkpoint_topic, MARKER_KEY, encode(checkpoint.marker), partition
        )
        entry = Outgoing(topology.ledger_topic, None, encode(checkpoint.entry), partition)
        self._log.append([*changes, marker, entry], self._world.clock(), 0)
        self.ledger.append(checkpoint.entry)
        return {
            writes.table: self._log.end(topology.changelog(writes.table), partition)
            for writes in checkpoint.writes
        }

    async def _announce(self, task: Task, intent: Intent) -> None:
        """Commit what a function is about to be given, in a transaction of its own."""
        if self._settings.guarantee is Guarantee.EXACTLY_ONCE:
            topic = task.topology.intents_topic
            record = Outgoing(topic, INTENT_KEY, intent.encode(), task.partition)
            self._log.append([record], self._world.clock(), 0)

    def _publish(self, outputs: list[Outgoing], keyless: int) -> None:
        self.outputs += self._log.append(outputs, self._world.clock(), keyless)


def _memory_directory() -> Path | None:
    """Return a directory in memory with room for stores, where a store opens ten times faster."""
    try:
        room = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return None
    return _SHARED_MEMORY if room >= _ROOM and os.access(_SHARED_MEMORY, os.W_OK) else None
