"""The engine: every topology of an application on one worker, as a service of Faust's worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from streamapp.engine import heap, seams
from streamapp.engine.cancellation import end
from streamapp.engine.checkpoint import Surroundings
from streamapp.engine.group import Group
from streamapp.engine.identity import Identity
from streamapp.engine.progress import Recovery
from streamapp.engine.provisioning import Provisioning
from streamapp.engine.snapshot_archive import SnapshotPlace
from streamapp.engine.snapshots import take_at_intervals
from streamapp.engine.trim import Trimmer
from streamapp.state.store import StoreMemory

if TYPE_CHECKING:
    from streamapp.engine.app import App

__all__ = ["Engine"]

log = logging.getLogger(__name__)

_ONCE_POLL = 0.05


class Engine(Service):
    """Runs the batch agents of an application.

    Arguments:
        once: process what is there, commit, close what the watermark closes, and say `finished`.
        provisioning: makes the topics, when a worker has not made them before.
    """

    def __init__(
        self,
        app: App,
        *,
        once: bool = False,
        provisioning: Provisioning | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.app = app
        self.once = once
        self.groups: list[Group] = []
        #: Set when `once` has nothing left to do.
        self.finished = asyncio.Event()
        self._identity: Identity | None = None
        self._provisioning = provisioning or Provisioning(app)
        self._watch: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None
        self._snapping: asyncio.Task[None] | None = None
        #: How far the tasks are that open.
        self.recovery = Recovery()
        self._reporting: asyncio.Task[None] | None = None

    @property
    def worker(self) -> str:
        """This worker's identity, once it has one."""
        return "" if self._identity is None else self._identity.name

    @property
    def running(self) -> str:
        """The topologies that it runs, by name."""
        return ", ".join(group.topology.name for group in self.groups)

    async def on_start(self) -> None:
        """Claim an identity, join the groups."""
        app, settings = self.app, self.app.engine_settings
        topologies = app.topologies()
        self._identity = Identity(settings.state_dir / app.conf.id, settings.worker_name)
        options = app.kafka_options()
        snapshots = None
        if settings.snapshots is not None:
            snapshots = await asyncio.to_thread(SnapshotPlace, settings.snapshots)
        cluster = await self._provisioning.cluster()
        provisioned = cluster.topics
        surroundings = Surroundings(
            clock=lambda: round(time.time() * 1000),
            partitions=provisioned.partitions,
            limits=provisioned.limits,
            worker=self._identity.name,
            dead_letter_topic=app.dead_letter_topic,
            cluster=cluster.id,
            tombstones=provisioned.tombstones,
        )
        memory = StoreMemory(settings.store_memory)
        opening = asyncio.Semaphore(settings.opening)
        self.groups = [
            Group(
                topology,
                settings,
                options,
                surroundings,
                self._identity.directory,
                memory,
                opening,
                self.recovery,
                self._identity.name if self._identity.named else None,
                self._failed,
                self._provisioning.make_late,
                self.once,
                snapshots,
            )
            for topology in topologies
        ]
        self._reporting = asyncio.get_running_loop().create_task(self.recovery.report())
        self._reporting.add_done_callback(self._watched)
        await _all(group.start() for group in self.groups)
        if self._identity is None:
            return  # it was stopped meanwhile
        trimmer = Trimmer(self.groups, options, settings.trim_interval)
        self._trimming = asyncio.get_running_loop().create_task(trimmer.run())
        self._trimming.add_done_callback(self._watched)
        if snapshots is not None:
            self._snapping = asyncio.get_running_loop().create_task(
                take_at_intervals(self.groups, settings.snapshot_interval)
            )
            self._snapping.add_done_callback(self._watched)
        heap.settle()
        log.info(
            "worker %s runs %s",
            self._identity.name,
            ", ".join(topology.name for topology in topologies),
        )
        if self.once:
            self._watch = asyncio.get_running_loop().create_task(self._finish_once(options))
            self._watch.add_done_callback(self._watched)

    async def on_stop(self) -> None:
        """Finish the batches at hand, commit, leave the groups."""
        for task in (self._watch, self._trimming, self._snapping, self._reporting):
            if task is not None:
                await end(task)
        draining = self._identity is not None and self._identity.draining
        try:
            await _all(group.stop(for_good=draining) for group in self.groups)
            if self._identity is not None:
                self._identity.drained()
        finally:
            self.groups = []
            if self._identity is not None:
                self._identity.release()
                self._identity = None

    def _failed(self, error: BaseException) -> None:
        """No retry mends this: stop the worker, and say why."""
        log.error("the worker stops: %s", error)
        self.app.failed(error)

    def _watched(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    # ------------------------------------------------------------------ once

    async def _finish_once(self, options: dict[str, Any]) -> None:
        """Wait until every topology has committed everything that its sources hold.

        What one topology sends is a source of the next, so the ends are looked at again until
        nothing has moved between two looks.
        """
        consumer = AIOKafkaConsumer(
            **options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await seams.start(consumer, lambda error: _ONCE_POLL)
        try:
            before: tuple[Any, ...] | None = None
            while True:
                seen = await self._state_of_sources(consumer)
                if seen is not None and seen == before:
                    break
                before = seen
                await asyncio.sleep(_ONCE_POLL)
        finally:
            await consumer.stop()
        self.finished.set()

    async def _state_of_sources(self, consumer: AIOKafkaConsumer) -> tuple[Any, ...] | None:
        """Return a fingerprint of ends and checkpoints, or `None` while something is left to do.

        What other workers have is waited for too: they finish it, or their tasks come here.
        """
        fingerprint: list[Any] = []
        for group in self.groups:
            runners = dict(group.runners)
            sources = [
                TopicPartition(source.name, partition)
                for source in group.topology.sources
                for partition in range(group.surroundings.partitions[source.name])
            ]
            try:
                ends: dict[TopicPartition, int] = await consumer.end_offsets(sources)
                elsewhere = [tp for tp in sources if tp.partition not in runners]
                if not await self._all_committed(consumer, group, elsewhere, ends):
                    return None
            except KafkaError:
                return None
            for runner in runners.values():
                if runner.stopped is not None:
                    continue
                if not runner.quiet:
                    return None
                for tp in runner.sources:
                    position = runner.position(tp.topic)
                    if position is None or position < ends[tp]:
                        return None
                fingerprint.append((runner.name, runner.checkpoints))
            fingerprint.append(tuple(ends.items()))
        return tuple(fingerprint)

    @staticmethod
    async def _all_committed(
        consumer: AIOKafkaConsumer,
        group: Group,
        partitions: list[TopicPartition],
        ends: dict[TopicPartition, int],
    ) -> bool:
        """Whether the group has committed all records of some partitions, control records aside."""
        if group.consumer is None:
            return False
        behind: dict[TopicPartition, int] = {}
        for tp in partitions:
            committed = await group.consumer.committed(tp) or 0
            if committed < ends[tp]:
                behind[tp] = committed
        if not behind:
            return True
        consumer.assign(list(behind))
        for tp, offset in behind.items():
            consumer.seek(tp, offset)
        while any([await consumer.position(tp) < ends[tp] for tp in behind]):
            if await consumer.getmany(*behind, timeout_ms=100):
                return False
        return True


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Wait until all of it is done, also when some of it fails; raise the first failure then."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
