"""A topology on this worker: its member of the consumer group, and the tasks that were assigned.

`on_partitions_assigned` pauses the partitions, starts the tasks and returns: fencing, restoring,
seeking and resuming happen outside of it, since aiokafka sends no heartbeat before it returns.
There is no word when partitions are lost, so every step asks whether its epoch still holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from streamapp.engine import seams
from streamapp.engine.assignment import Member
from streamapp.engine.assignor import TaskAssignor
from streamapp.engine.cancellation import end
from streamapp.engine.checkpoint import Surroundings
from streamapp.engine.fetching import WholeBatches
from streamapp.engine.membership import Membership
from streamapp.engine.producer import OutputProducer
from streamapp.engine.progress import Recovery
from streamapp.engine.readers import Readers
from streamapp.engine.runner import TaskRunner
from streamapp.engine.settings import EngineSettings
from streamapp.engine.snapshot_archive import SnapshotPlace
from streamapp.engine.snapshots import Snapshots
from streamapp.engine.standby import Standby
from streamapp.engine.stores import TaskStores
from streamapp.engine.topology import Topology
from streamapp.engine.troubles import Troubles
from streamapp.errors import StreamappError, TopicError
from streamapp.state.store import StoreMemory

__all__ = ["Group"]

log = logging.getLogger(__name__)

#: How long a fetch waits for records, in milliseconds.
_POLL_MS = 100
#: While everything is paused nothing is polled; that must not end the membership.
_NEVER_MS = 2**31 - 1
#: For how long the last answer to a fetch says what a partition holds, in milliseconds.
_FRESH_MS = 2_000
#: What a fetch ends in when a rebalance comes in between.
_IN_BETWEEN = (IllegalStateError, NoOffsetForPartitionError)
#: The first and the longest pause between two tries to read or to join, in seconds: within a session
#: timeout, or the process would seem to have been still.
_BACKOFF = (0.1, 2.0)


class Group(ConsumerRebalanceListener):  # type: ignore[misc]
    """One topology's consumer and its tasks on this worker.

    Arguments:
        instance: the worker's name when it was given one: it is a static member then (KIP-345).
        opening: bounds how many tasks open at once, over all topologies.
        recovery: is told how far they are with it, over all topologies.
        failed: called with an error that no retry mends.
        make_topics: makes topics that an agent sends to and nobody declared.
        snapshots: where copies of the stores are.
    """

    def __init__(
        self,
        topology: Topology,
        settings: EngineSettings,
        kafka_options: Mapping[str, Any],
        surroundings: Surroundings,
        state_directory: Path,
        memory: StoreMemory,
        opening: asyncio.Semaphore,
        recovery: Recovery,
        instance: str | None,
        failed: Callable[[BaseException], None],
        make_topics: Callable[[set[str]], Awaitable[None]],
        once: bool = False,
        snapshots: SnapshotPlace | None = None,
    ) -> None:
        self.topology = topology
        self.settings = settings
        self.kafka_options = kafka_options
        self.surroundings = surroundings
        self.opening = opening
        self.recovery = recovery
        self.readers = Readers(kafka_options)
        self.membership = Membership(
            topology.group, settings.session_timeout, instance, lambda: self.output.close()
        )
        self.output = OutputProducer(
            kafka_options, settings, surroundings.limits, self.membership.may_send
        )
        self.once = once
        self.runners: dict[int, TaskRunner] = {}
        self._assigned: set[int] = set()
        self._instance = instance
        self._failed = failed
        self.make_topics = make_topics
        self._troubles = Troubles(
            topology.name,
            "the group is joined and read again",
            f"the group {topology.group} cannot be joined or read",
            _BACKOFF,
        )
        self._awake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._closing: dict[int, asyncio.Task[None]] = {}
        self._stopped = False
        self.stores = TaskStores(
            topology,
            state_directory,
            memory,
            surroundings.cluster,
            surroundings.tombstones_kept(topology),
            surroundings.clock,
        )
        self.snapshots = (
            None
            if snapshots is None
            else Snapshots(
                snapshots, topology, self.stores, surroundings.cluster, surroundings.clock
            )
        )
        self.standby = Standby(
            kafka_options,
            topology,
            settings,
            self.stores,
            self.readers,
            surroundings.clock,
            self._unused,
            self._rejoin,
        )
        self._assignor = TaskAssignor(
            self._member_now,
            surroundings.partitions,
            settings.standby_replicas,
            settings.acceptable_lag,
        )
        self.consumer: AIOKafkaConsumer | None = None

    # ------------------------------------------------------------------ its life

    @property
    def epoch(self) -> int:
        """The number of the assignment: what was begun under another one is void."""
        return self.membership.epoch

    async def start(self) -> None:
        """Join the group; tasks start, and standbys follow, as partitions are assigned."""
        settings = self.settings
        instance = None if self._instance is None else f"{self.topology.group}-{self._instance}"
        self.consumer = AIOKafkaConsumer(
            **self.kafka_options,
            # What Kafka's tools show of a member.
            client_id=f"{self.topology.group}-{self.surroundings.worker}",
            group_id=self.topology.group,
            group_instance_id=instance,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_poll_interval_ms=_NEVER_MS,
            session_timeout_ms=round(settings.session_timeout * 1000),
            heartbeat_interval_ms=round(settings.heartbeat_interval * 1000),
            rebalance_timeout_ms=round(settings.rebalance_timeout * 1000),
            fetch_max_wait_ms=_POLL_MS,
            partition_assignment_strategy=(self._assignor,),
        )
        await asyncio.to_thread(self.stores.survey)
        self.membership.joins(self.consumer)
        if not await seams.start(
            self.consumer, self._troubles.failed, wanted=lambda: not self._stopped
        ):
            return
        self._troubles.passed()
        seams.tell_refused_offsets(self.consumer)
        whole_batches = WholeBatches(self.consumer)
        self.consumer.subscribe([source.name for source in self.topology.sources], listener=self)
        self._loop_task = asyncio.get_running_loop().create_task(
            self._fetch(self.consumer, whole_batches), name=f"fetch {self.topology.name}"
        )
        self._loop_task.add_done_callback(self.runner_done)

    async def stop(self, *, for_good: bool = False) -> None:
        """Finish the batches at hand, commit, and leave the group.

        Arguments:
            for_good: a named worker leaves as well, which is expected back otherwise.
        """
        # A rebalance may go on meanwhile, and end in an assignment: nothing is started by it.
        self._stopped = True
        self.membership.revoked()
        await self._each(runner.close() for runner in self.runners.values())
        self.runners = {}
        if self._loop_task is not None:
            await end(self._loop_task)
        if self._closing:
            await asyncio.wait(self._closing.values())
        await self.standby.stop()
        await self.stores.close_all()
        await self.membership.close()
        await self.output.close()
        await self.readers.close()
        if self.consumer is not None:
            await seams.leave_group(self.consumer, for_good=for_good)
            await seams.stop(self.consumer)

    async def _each(self, work: Iterable[Awaitable[None]]) -> None:
        """Wait until all runners have done something; one that fails does not keep the others from it."""
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, Exception):
                self._failed(outcome)

    def runner_done(self, task: asyncio.Task[None]) -> None:
        """Escalate what a task could not mend by opening anew."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    # ------------------------------------------------------------------ the group

    def _member_now(self) -> Member:
        """Return what this member says of itself when it joins."""
        return Member(
            self.stores.positions(),
            frozenset(self.runners),
            self.standby.tasks,
            self.standby.warming,
        )

    def _rejoin(self) -> None:
        """Ask for what this worker was promised."""
        if self.consumer is not None and not self._stopped:
            seams.rejoin(self.consumer)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Finish or abort the batches at hand; producers and stores stay for what comes back."""
        self.membership.revoked()
        if revoked:
            log.info("%s: %d partitions revoked", self.topology.name, len(revoked))
        bound = self.settings.rebalance_timeout / 2
        await self._each(runner.park(bound) for runner in self.runners.values())

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Pause, start the tasks, return."""
        try:
            self._assign(assigned)
        except Exception as error:  # aiokafka would log it, and the tasks be missing for ever
            self._failed(error)

    def _assign(self, assigned: set[TopicPartition]) -> None:
        assert self.consumer is not None
        if self._stopped:
            return
        if assigned:
            self.consumer.pause(*assigned)
        stayed = self.membership.assigned()
        self._assigned = {tp.partition for tp in assigned}
        log.info(
            "%s: generation %d, tasks %s",
            self.topology.name,
            self.membership.generation,
            sorted(self._assigned),
        )
        self._check_grown(assigned)
        for partition in set(self.runners) - self._assigned:
            self._close_later(self.runners.pop(partition))
        assignor = self._assignor
        following = (assignor.standby | assignor.warming) - self._assigned
        self.standby.assign(following, assignor.warming & following, self._closing)
        for partition in sorted(self._assigned):
            runner = self.runners.get(partition)
            if runner is None:
                runner = TaskRunner(self, partition, after=self._closing.get(partition))
                self.runners[partition] = runner
            runner.start(self.epoch, stayed)

    def _check_grown(self, assigned: set[TopicPartition]) -> None:
        for tp in assigned:
            known = self.surroundings.partitions[tp.topic]
            if tp.partition >= known:
                raise TopicError(
                    f"the topic {tp.topic} had {known} partitions when the worker started, and has more by now: keys "
                    "go to other partitions than those that have their state. Stop the workers, and "
                    f"{self.topology.following}"
                )

    def _close_later(self, runner: TaskRunner) -> None:
        closing = asyncio.get_running_loop().create_task(
            runner.close(), name=f"close {runner.name}"
        )
        self._closing[runner.partition] = closing

        def closed(task: asyncio.Task[None]) -> None:
            if self._closing.get(runner.partition) is task:
                del self._closing[runner.partition]
            self._unused(runner.partition)
            self.runner_done(task)

        closing.add_done_callback(closed)

    def _unused(self, partition: int) -> None:
        """Close a store that has neither a runner nor a standby by now."""
        used = self.runners.keys() | self._closing.keys() | self.standby.tasks
        if partition not in used:
            self.stores.close(partition)

    # ------------------------------------------------------------------ offsets

    async def committed(self, tp: TopicPartition) -> int | None:
        """Return the group's offset, or `None`."""
        assert self.consumer is not None
        committed = await self.consumer.committed(tp)
        return None if committed is None else int(committed)

    async def initial_offset(self, tp: TopicPartition) -> int:
        """Return where a source begins without a marker: the group's offset, or the reset's."""
        assert self.consumer is not None
        committed = await self.committed(tp)
        if committed is not None:
            return committed
        find = (
            self.consumer.beginning_offsets
            if self.settings.offset_reset == "earliest"
            else self.consumer.end_offsets
        )
        return int((await find([tp]))[tp])

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Put the consumer to offsets and let it fetch from there."""
        assert self.consumer is not None
        for tp, offset in offsets.items():
            self.consumer.seek(tp, offset)
        self.consumer.resume(*offsets)

    def caught_up(self, tp: TopicPartition) -> bool:
        """Whether the consumer has seen all that is committed of a partition."""
        assert self.consumer is not None
        runner = self.runners.get(tp.partition)
        position = None if runner is None else runner.position(tp.topic)
        try:
            stable = self.consumer.last_stable_offset(tp)
            polled = self.consumer.last_poll_timestamp(tp)
        except (IllegalStateError, AssertionError):
            return False
        if position is None or stable is None or polled is None:
            return False
        # While the broker does not answer, nobody knows what has come in.
        return bool(position >= stable and time.time() * 1000 - polled < _FRESH_MS)

    # ------------------------------------------------------------------ fetching

    def wake(self) -> None:
        """A task has room again."""
        self._awake.set()

    async def _fetch(self, consumer: AIOKafkaConsumer, whole_batches: WholeBatches) -> None:
        while True:
            self.membership.live()
            self._awake.clear()
            ready = {
                tp: runner
                for runner in self.runners.values()
                if runner.hungry and runner.epoch == self.epoch
                for tp in runner.sources
            }
            try:
                seams.check(consumer)
                if not ready:
                    await self._wait()
                    continue
                fetched = await whole_batches.getmany(*ready, timeout_ms=_POLL_MS)
            except OffsetOutOfRangeError as error:
                await self._jump(consumer, error.args[0])
                continue
            except _IN_BETWEEN:
                self._put_back(consumer, ready)
                await self._wait()
                continue
            except KafkaError as error:
                pause = self._troubles.failed(error)
                self._put_back(consumer, ready)
                await asyncio.sleep(pause)
                seams.revive(consumer)
                continue
            self._troubles.passed()
            for tp, runner in ready.items():
                if not self._reads(runner, tp):
                    continue
                try:
                    position = await consumer.position(tp)
                except (IllegalStateError, KafkaError):
                    continue
                runner.feed(tp.topic, fetched.get(tp, ()), position)

    def _reads(self, runner: TaskRunner, tp: TopicPartition) -> bool:
        """Whether a runner is the one that has a partition, and knows where it reads."""
        return (
            self.runners.get(tp.partition) is runner
            and runner.epoch == self.epoch
            and runner.position(tp.topic) is not None
        )

    def _put_back(
        self, consumer: AIOKafkaConsumer, runners: Mapping[TopicPartition, TaskRunner]
    ) -> None:
        """Read on from what the tasks have: aiokafka drops what one fetch had of other partitions."""
        for tp, runner in runners.items():
            position = runner.position(tp.topic)
            if position is not None and self._reads(runner, tp):
                consumer.seek(tp, position)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_POLL_MS / 1000):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _jump(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Retention has removed what was not read yet: go on where the partition begins, and say so.

        Raises:
            StreamappError: the partition ends before what was read: it is another one.
        """
        try:
            begins = await consumer.beginning_offsets(list(offsets))
            ends = await consumer.end_offsets(list(offsets))
        except KafkaError as error:
            log.warning("%s: looking where to read on: %s", self.topology.name, error)
            await self._wait()
            return  # the fetch is out of range again
        for tp, offset in offsets.items():
            runner = self.runners.get(tp.partition)
            if runner is None or not self._reads(runner, tp):
                continue
            if offset > ends[tp]:
                raise StreamappError(
                    f"{tp.topic}[{tp.partition}] ends at {ends[tp]}, and {runner.name} has read up to {offset}: the "
                    "topic was deleted and made anew, or truncated. Restore it, or begin anew, with empty tables: "
                    f"streamapp reset {self.topology.name}"
                )
            if offset < begins[tp]:
                log.error(
                    "%s[%d]: offset %d is gone, the partition begins at %d: records were removed before they were "
                    "read; raise the topic's retention",
                    tp.topic,
                    tp.partition,
                    offset,
                    begins[tp],
                )
                runner.jumped(tp.topic, offset, begins[tp])
                consumer.seek(tp, begins[tp])
