"""A task at work on Kafka: opened behind a fence, fed by the consumer, checkpointed batch by batch.

The crash scenarios, and why none of them loses or repeats:

- before the commit: the broker aborts the transaction; the store was not touched;
- after the commit, before the write batch: the store is one checkpoint behind, and the restore
  brings it the changelog's tail;
- a commit of unknown outcome: the overlay is dropped, the producer is started anew (which ends the
  transaction one way or the other), and the marker says which way it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streamapp.engine.cancellation import stray_cancellations
from streamapp.engine.checkpoint import Checkpoint, Slice
from streamapp.engine.error_handling import ErrorHandling, ranges
from streamapp.engine.foreach import INTENT_KEY, Intent
from streamapp.engine.intake import Intake
from streamapp.engine.marker import MARKER_KEY, encode
from streamapp.engine.opening import Opener
from streamapp.engine.outbox import Outgoing, misdirected
from streamapp.engine.pace import Pace
from streamapp.engine.parts import Part
from streamapp.engine.producer import TaskProducer
from streamapp.engine.progress import Opening
from streamapp.engine.replay import wait_for_room
from streamapp.engine.settings import Guarantee
from streamapp.engine.task import Task
from streamapp.engine.troubles import Troubles
from streamapp.errors import (
    AgentStopped,
    DamagedStoreError,
    FullDiskError,
    RecordError,
    StoreError,
    TaskClosed,
    TransactionTimedOut,
)
from streamapp.faults import fault_point

if TYPE_CHECKING:
    from streamapp.engine.group import Group

__all__ = ["TaskRunner"]

log = logging.getLogger(__name__)

#: How often a quiet task looks whether event time has come to close something, in seconds.
_TICK = 0.25


class _Revoked(Exception):
    """The partitions belong to another worker by now."""


class TaskRunner:
    """Runs one task of one topology, from its first open to its close.

    It outlives rebalances: a task whose partitions come straight back keeps its producer and its
    store, and begins where it last committed. Should anybody have had it in between after all, the
    producer is fenced, the first transaction fails, and the task opens anew.

    Arguments:
        after: closes the runner that had the partition before.
    """

    def __init__(
        self, group: Group, partition: int, after: asyncio.Task[None] | None = None
    ) -> None:
        self._group = group
        self._topology = group.topology
        self._settings = group.settings
        self.partition = partition
        self.sources = [TopicPartition(source.name, partition) for source in self._topology.sources]
        self.task: Task | None = None
        self._producer = TaskProducer(
            group.kafka_options,
            self._topology.transactional_id(partition),
            self._topology.group,
            self._settings,
            group.surroundings.limits,
        )
        self._opener = Opener(group, partition, self._producer, self._announce)
        #: What it was fed; `None` while it is not open.
        self._intake: Intake | None = None
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._runs: asyncio.Task[None] | None = None
        self._busy = False
        self._opening = False
        self._after = after
        self._errors = ErrorHandling(group.topology, partition, group.settings)
        self._troubles = Troubles(
            self.name,
            "it opens anew",
            f"{self.name} cannot be opened or committed",
            group.settings.backoff,
        )
        self._pace = Pace(group.topology.max_records, group.settings.transaction_timeout)
        #: Why an agent's error policy has stopped it.
        self.stopped: AgentStopped | None = None
        self.epoch = -1
        #: Whether nobody else can have had the task since it was opened.
        self._own = False
        self.checkpoints = 0
        #: Changelog records that its last open restored.
        self.restored = 0

    def __repr__(self) -> str:
        return f"<TaskRunner {self.name}>"

    @property
    def name(self) -> str:
        """`topology/partition`."""
        return f"{self._topology.name}/{self.partition}"

    # ------------------------------------------------------------------ its life

    def start(self, epoch: int, stayed: bool = False) -> None:
        """Go to work under an assignment.

        Arguments:
            stayed: nobody else can have had the task since it was parked: it goes on as it is.
        """
        self.epoch = epoch
        self._own = self._own and stayed
        self._stopping = asyncio.Event()
        self._intake = None
        self._runs = asyncio.get_running_loop().create_task(self._run(), name=f"task {self.name}")
        self._runs.add_done_callback(self._group.runner_done)

    async def park(self, within: float) -> None:
        """Stop working: finish the batch at hand within so many seconds, or abort it.

        Producer and store stay open. A task that is opening has no batch: it is interrupted at once,
        and its restore goes on from there another time.
        """
        self._intake = None
        self._stopping.set()
        self._changed.set()
        runs = self._runs
        if runs is None:
            return
        opening = self._opening
        # Whoever closes while this waits, waits for the same.
        _, pending = await asyncio.wait({runs}, timeout=0 if opening else within)
        if pending:
            if not opening:
                log.warning(
                    "%s did not finish its batch within %.1f s: it is aborted", self.name, within
                )
            # Once: a second cancellation would hit what the first one has begun to close.
            if not runs.cancelling():
                runs.cancel()
            await asyncio.wait({runs})
            await self._drop_batch()
        if self._runs is runs:
            self._runs = None

    async def close(self) -> None:
        """Let go of everything; the store stays open, for whoever has it next."""
        try:
            await self.park(self._settings.rebalance_timeout / 2)
        finally:
            if self._after is not None:
                await asyncio.wait({self._after})
            await self._producer.close()
            task, self.task = self.task, None
            if task is not None:
                await task.abort()

    async def _drop_batch(self) -> None:
        await self._producer.close()
        if self.task is not None:
            await self.task.abort()

    # ------------------------------------------------------------------ fed by the consumer

    @property
    def hungry(self) -> bool:
        """Whether there is room for more records, by number and by size."""
        intake = self._intake
        return intake is not None and (intake.has_room or not self._has_read_again(intake))

    @property
    def pending(self) -> int:
        """How many records wait to be processed."""
        return 0 if self._intake is None else self._intake.pending

    def _has_read_again(self, intake: Intake) -> bool:
        """Whether what has to be presented as it was, whatever its size, is read; also if it is nothing."""
        again = None if self.task is None else self.task.pending
        return again is None or intake.position(again.topic) >= again.until_offset

    def feed(self, topic: str, records: Sequence[Any], until: int) -> None:
        """Take what was fetched, up to an offset; records may be none, control records move it too."""
        if self._intake is not None and self._intake.feed(topic, records, until):
            self._changed.set()

    def jumped(self, topic: str, offset: int, until: int) -> None:
        """Take note that what was not read up to an offset is gone: the next batch tells the ledger."""
        if self._intake is not None:
            self._intake.jump(topic, offset, until)

    def position(self, topic: str) -> int | None:
        """Return up to where a source was taken in, or `None` while the task is opening."""
        return None if self._intake is None else self._intake.position(topic)

    @property
    def position_known(self) -> bool:
        """Whether the task is open and its partitions are being read."""
        return self._intake is not None

    @property
    def quiet(self) -> bool:
        """Whether all that was taken in is processed and committed, or never will be."""
        if self.stopped is not None:
            return True
        return self.position_known and not self._busy and self.pending == 0

    @property
    def steps(self) -> int:
        """Counts checkpoints, and what is restored, also by other tasks: this one may wait for its turn."""
        return self.checkpoints + self._group.recovery.moves

    # ------------------------------------------------------------------ opening

    async def _run(self) -> None:
        while not self._stopping.is_set() and self.stopped is None:
            try:
                with stray_cancellations():
                    if not self._own or not self._producer.is_open or self.task is None:
                        self._opening = True
                        try:
                            await self._open()
                            self._own = True
                        finally:
                            self._opening = False
                    await self._seek()
                    await self._work()
            except _Revoked:
                return
            except AgentStopped as error:
                log.error("%s", error, exc_info=error.__cause__)
                self.stopped = error
                self._intake = None
                await self._drop_batch()
                return
            except (TaskClosed, KafkaError, OSError, DamagedStoreError, FullDiskError) as error:
                self._intake = None
                await self._drop_batch()
                pause = self._troubles.failed(error)
                if isinstance(error, DamagedStoreError):
                    self.task = None
                    await self._group.stores.replace(self.partition, error)
                elif isinstance(error, FullDiskError):
                    # RocksDB takes no writes any more until it is opened anew.
                    self.task = None
                    self._group.stores.close(self.partition)
                await self._pause(pause)
            except Exception:
                # What it has in memory is worth nothing now, also if an assignment comes before the end.
                await self._drop_batch()
                raise

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _open(self) -> None:
        if self._after is not None:
            await asyncio.wait({self._after})
            self._after = None
        with self._group.recovery.opening(self.name) as opening:
            async with self._group.opening:
                await self._open_behind_a_fence(opening)

    async def _open_behind_a_fence(self, opening: Opening) -> None:
        began = time.monotonic()
        # A zombie must not fence the rightful owner: the group says whether this is it.
        if not await self._group.membership.confirmed(self.epoch):
            await self._pause(self._settings.backoff[0])
            raise (
                _Revoked
                if self._group.epoch != self.epoch
                else TaskClosed("no word from the group")
            )
        self.task, self.restored = await self._opener.open(self.epoch, self.task, opening)
        known = self.task.marker.sources
        await self._begin(self.task, [tp for tp in self.sources if tp.topic not in known])
        log.info(
            "%s is open after %.0f ms: checkpoint %d, %d changelog records restored",
            self.name,
            (time.monotonic() - began) * 1000,
            self.task.marker.sequence,
            self.restored,
        )

    async def _begin(self, task: Task, unknown: list[TopicPartition]) -> None:
        """Begin sources that the marker does not know at the group's offset, or at the reset's.

        Where a partition ends is another place each time: it is committed before the first record
        is taken, or a batch that fails would be skipped.
        """
        begins = [
            Slice(tp.topic, offset, offset, ())
            for tp in unknown
            for offset in [await self._group.initial_offset(tp)]
        ]
        task.marker.sources = {
            **task.marker.sources,
            **{part.topic: part.from_offset for part in begins},
        }
        if begins and self._settings.offset_reset != "earliest":
            await self._commit(task, task.skipping(begins), begins)

    async def _seek(self) -> None:
        assert self.task is not None
        if self._stopping.is_set() or self._group.epoch != self.epoch:
            raise _Revoked
        self.task.epoch = self.epoch
        offsets = {tp: self.task.marker.sources[tp.topic] for tp in self.sources}
        self._group.seek(offsets)
        self._intake = Intake(
            {tp.topic: offset for tp, offset in offsets.items()}, self._topology.max_records
        )
        self._group.wake()

    # ------------------------------------------------------------------ work

    async def _work(self) -> None:
        assert self.task is not None
        while not self._stopping.is_set():
            slices = await self._gather()
            if slices is None:
                await self._note(self.task)
                continue
            self._busy = True
            try:
                await self._checkpoint(self.task, slices)
            finally:
                self._busy = False
            self._group.wake()

    async def _note(self, task: Task) -> None:
        """Let the store of a task that has nothing to do know once in a while that it is up to date.

        It would be too old one day, for whoever opens it next. Only the group knows that it is not.
        """
        now = self._group.surroundings.clock()
        if not self.quiet or now - task.noted_at < self._group.stores.noted_every:
            return
        if await self._group.membership.confirmed(self.epoch):
            await wait_for_room(task.store)
            task.note(now)
        else:
            task.noted_at = now  # another time

    async def _gather(self) -> list[Slice] | None:
        """Wait for a batch: `None` when there is none yet, an empty list when event time alone is due."""
        self._changed.clear()
        task, intake = self.task, self._intake
        wait = _TICK
        if task is None or intake is None:
            pass
        elif (again := task.pending) is not None:
            if self._has_read_again(intake):
                return intake.take_until(again.until_offset)
        elif intake.since is not None:
            wait = intake.since + self._topology.within - time.monotonic()
            full = intake.pending >= self._pace.max_records or intake.heavy
            if full or wait <= 0 or self._group.once:
                return intake.take(self._pace.max_records)
        elif task.due(self._caught_up()):
            return []
        try:
            async with asyncio.timeout(wait):
                await self._changed.wait()
        except TimeoutError:
            pass
        return None

    def _caught_up(self) -> set[str]:
        drained = [] if self._intake is None else self._intake.drained()
        return {
            topic
            for topic in drained
            if self._group.caught_up(TopicPartition(topic, self.partition))
        }

    async def _checkpoint(self, task: Task, slices: Sequence[Slice]) -> None:
        """Commit a batch, in one checkpoint or, when an agent raises, in one for each of its parts."""
        once = self._settings.guarantee is Guarantee.AT_MOST_ONCE
        if once and slices:
            skipping = task.skipping(slices)
            await self._commit(task, skipping, slices)
        parts = deque([Part(slices)])
        while parts:
            part = parts.popleft()
            caught_up = set() if parts else self._caught_up()
            try:
                checkpoint = await task.process(part.slices, caught_up, part.condemned)
            except (
                TaskClosed,
                AgentStopped,
            ):  # no agent's: the task has lost its place, or its records
                raise
            except Exception as error:
                parts.extendleft(reversed(await self._failed(task, part, error)))
            else:
                if (nowhere := await self._misdirected(checkpoint)) is not None:
                    parts.extendleft(reversed(await self._failed(task, part, nowhere)))
                else:
                    await self._publish(task, checkpoint, part.slices)
            if parts and self._stopping.is_set() and not once:
                raise _Revoked

    async def _failed(self, task: Task, part: Part, error: Exception) -> list[Part]:
        """Take back a part that failed; return what is processed in its place, after a pause."""
        fault = task.fault(error)
        await task.abort()
        if task.store.damage is not None:
            raise task.store.damage  # which may be the error itself, or its cause
        instead, pause = self._errors.failed(part, fault)
        await self._pause(pause)
        return instead

    async def _misdirected(self, checkpoint: Checkpoint) -> RecordError | None:
        """Make topics that are sent to and not there; return the error of a partition that they lack.

        How many they have is known from then on, when the batch is processed again: the record at
        hand is to blame then.
        """
        partitions = self._group.surroundings.partitions
        unknown = {record.topic for record in checkpoint.outputs} - partitions.keys()
        if unknown:
            await self._group.make_topics(unknown)
        # Also without: another task may have made one since this batch was processed.
        return misdirected(checkpoint.outputs, partitions)

    async def _publish(self, task: Task, checkpoint: Checkpoint, slices: Sequence[Slice]) -> None:
        # An agent may have made nothing of what it was told when it read.
        if task.store.damage is not None:
            raise task.store.damage
        fault_point("checkpoint.processed")
        if self._settings.guarantee is Guarantee.AT_LEAST_ONCE:
            if not await self._group.membership.still_here(self.epoch):
                raise TaskClosed("others may have its partitions by now")
            await self._group.output.send(
                checkpoint.leaving(self._topology), keyless=checkpoint.marker.sequence
            )
            fault_point("checkpoint.outputs-sent")
        try:
            await self._commit(task, checkpoint, slices)
        except TransactionTimedOut:
            self._pace.timed_out(sum(len(part.records) for part in slices))
            raise
        self._errors.succeeded()

    async def _announce(self, intent: Intent) -> None:
        """Commit what a function is about to be given; one that has been fenced gives it nothing."""
        guarantee = self._settings.guarantee
        if guarantee is Guarantee.EXACTLY_ONCE:
            topic = self._topology.intents_topic
            record = Outgoing(topic, INTENT_KEY, intent.encode(), self.partition)
            await self._producer.commit([record], {}, what="intent")
        elif guarantee is Guarantee.AT_LEAST_ONCE and not await self._group.membership.still_here(
            self.epoch
        ):
            raise TaskClosed("others may have its partitions by now")

    async def _commit(self, task: Task, checkpoint: Checkpoint, slices: Sequence[Slice]) -> None:
        began = time.perf_counter()
        offsets = {TopicPartition(part.topic, self.partition): part.until_offset for part in slices}
        ends = await self._producer.commit(
            self._records(checkpoint),
            offsets,
            checkpoint.marker.sequence + self.partition,
            check=partial(self._check_ends, task),
        )
        took = time.perf_counter() - began
        self._pace.committed(took)
        fault_point("checkpoint.before-store")
        await wait_for_room(task.store)
        changelogs = {
            writes.table: ends[changelog]
            for writes in checkpoint.writes
            if (changelog := self._changelog(writes.table)) in ends
        }
        task.committed(checkpoint, changelogs, took * 1000)
        if checkpoint.entry.dead_letters:
            log.warning(
                "%s: %d of the records in %s went to the dead letters, %s",
                self.name,
                checkpoint.entry.dead_letters,
                ranges(slices, self.partition),
                self._group.surroundings.dead_letter_topic,
            )
        self.checkpoints += 1
        self._troubles.passed()
        fault_point("checkpoint.stored")

    def _changelog(self, table: str) -> TopicPartition:
        return TopicPartition(self._topology.changelog(table), self.partition)

    def _check_ends(self, task: Task, ends: Mapping[TopicPartition, int]) -> None:
        """Refuse changelogs that end before what is known of them.

        Raises:
            StoreError: one was deleted and made anew while the task was at work.
        """
        for table, position in task.positions.items():
            changelog = self._changelog(table)
            end = ends.get(changelog)
            if end is not None and end <= position:
                raise StoreError(
                    f"the changelog {changelog.topic}[{self.partition}] ends at {end}, {self.name} has seen {position} "
                    "of it: it was deleted and made anew, or truncated, while the task was at work. Restore the topic, "
                    "or give up this state and all copies of it (the other workers' state directories, snapshots): "
                    f"streamapp reset {self._topology.name}"
                )

    def _records(self, checkpoint: Checkpoint) -> Iterator[Outgoing]:
        topology, partition = self._topology, self.partition
        return chain(
            checkpoint.outputs,
            checkpoint.changelog(topology, partition),
            (
                Outgoing(
                    topology.checkpoint_topic, MARKER_KEY, encode(checkpoint.marker), partition
                ),
                Outgoing(topology.ledger_topic, None, encode(checkpoint.entry), partition),
            ),
        )
