"""Standbys: tasks that others run, whose changelogs are followed here, so that taking over is quick.

One consumer follows all standby tasks of a topology on this worker, read committed, by manual
assignment. Positions reach a store with the last of the data, or after it. The marker in it stays the one that
this worker wrote when it last ran the task, or, in a store that it made, one that knows the state's
incarnation alone: it claims less than the data, never more, and whoever takes the task over reads
the last marker after fencing anyhow. So a store is good to go on from whenever this is interrupted.

Nothing that goes wrong here ends the worker: the tasks are run elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streamapp.engine import seams
from streamapp.engine.cancellation import end
from streamapp.engine.compacted import last_marker
from streamapp.engine.copies import positions_in, why_of_another_state
from streamapp.engine.fetching import WholeBatches
from streamapp.engine.lags import Lags
from streamapp.engine.marker import Marker
from streamapp.engine.readers import Readers
from streamapp.engine.replay import Replay
from streamapp.engine.settings import EngineSettings
from streamapp.engine.stores import TaskStores
from streamapp.engine.topology import Topology
from streamapp.errors import DamagedStoreError, StoreError, TaskClosed
from streamapp.faults import fault_point
from streamapp.state.store import Store

__all__ = ["Standby"]

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_POLL_MS = 100
#: How long the broker may hold a fetch that has nothing to bring, in milliseconds.
_FETCH_WAIT_MS = 500
#: What one fetch may bring of all partitions together, in bytes.
_FETCH_BYTES = 8 << 20
#: How long a task is left alone whose store or changelog is not as it should be, in seconds.
_REST = 60.0
#: How long to wait for a transaction to end before a task's last marker is read, in seconds.
_LOOK_MOST = 5.0
#: For how long an answer of the broker says that it is there, in milliseconds.
_FRESH = 5_000


@dataclass(slots=True, eq=False)
class _Followed:
    """A task that is followed.

    Attributes:
        after: closes the runner that has its store still.
        replay: writes to its store, once that is open.
        marker: what the store is told with its positions.
        fresh: whether the store was made here, and knows of no state yet.
        looks_at: when to look whether the store is of the state that the task has, by the monotonic
            clock; never again, once that has a name.
        noted_at: when it was last written to the store that it has all that there is, in milliseconds.
        rests_until: by the monotonic clock.
        busy: what is at its store beside the event loop.
    """

    partition: int
    after: asyncio.Future[None] | None
    replay: Replay | None = None
    marker: Marker = field(default_factory=Marker)
    fresh: bool = True
    looks_at: float = 0.0
    noted_at: int = 0
    rests_until: float = 0.0
    busy: asyncio.Future[Any] | None = None

    @property
    def positions(self) -> dict[str, int]:
        """The next offset of each table's changelog; ahead of the store by control records."""
        return {} if self.replay is None else self.replay.positions


class _Place(NamedTuple):
    """Whose changelog a partition is."""

    followed: _Followed
    table: str


class Standby:
    """Follows the changelogs of the standby tasks that a worker has of one topology.

    Arguments:
        clock: milliseconds since the epoch.
        unused: called with a task that is followed no longer, once nothing is at its store.
        near: called when all tasks are near enough that this worker is to take over.
    """

    def __init__(
        self,
        kafka_options: Mapping[str, Any],
        topology: Topology,
        settings: EngineSettings,
        stores: TaskStores,
        readers: Readers,
        clock: Callable[[], int],
        unused: Callable[[int], None],
        near: Callable[[], None],
    ) -> None:
        self._options = kafka_options
        self._topology = topology
        self._settings = settings
        self._stores = stores
        self._readers = readers
        self._clock = clock
        self._unused = unused
        self._followed: dict[int, _Followed] = {}
        self._left: list[_Followed] = []
        self._reading: dict[TopicPartition, _Place] = {}
        self._changed = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._failures = 0
        self._lags = Lags(topology.name, settings.acceptable_lag, near)
        #: Changelog records that were written to stores.
        self.records = 0

    # ------------------------------------------------------------------ its life

    @property
    def tasks(self) -> frozenset[int]:
        """The tasks that are followed."""
        return frozenset(self._followed)

    @property
    def warming(self) -> frozenset[int]:
        """Those of them that this worker is to run as soon as it is near enough."""
        return self._lags.warming

    @property
    def lags(self) -> Mapping[int, Mapping[str, int]]:
        """How many offsets each task is behind in each of its changelogs, where it is known."""
        return self._lags.by_task

    def assign(
        self,
        tasks: Collection[int],
        warming: Collection[int],
        closing: Mapping[int, asyncio.Future[None]],
    ) -> None:
        """Follow these tasks, and no others.

        Arguments:
            warming: those of them that this worker is to run.
            closing: what closes runners that still have a store.
        """
        if not self._topology.tables:  # nothing to follow: whoever runs it restores nothing
            tasks = warming = ()
        for partition in self._followed.keys() - set(tasks):
            self._left.append(self._followed.pop(partition))
        for partition in sorted(set(tasks) - self._followed.keys()):
            after = closing.get(partition)
            if after is not None:
                after.add_done_callback(lambda _: self._changed.set())
            self._followed[partition] = _Followed(partition, after)
        self._lags.assign(self._followed, warming)
        self._changed.set()
        if self._followed and self._loop_task is None:
            self._loop_task = asyncio.get_running_loop().create_task(
                self._run(), name=f"standby {self._topology.name}"
            )

    async def settled(self, partition: int) -> None:
        """Wait until nothing is at the store of a task that is followed no longer."""
        for followed in list(self._left):
            while followed.partition == partition and followed.busy is not None:
                await asyncio.wait({followed.busy})

    async def stop(self) -> None:
        """Stop following; the stores stay open."""
        if self._loop_task is not None:
            await end(self._loop_task)
        busy = [f.busy for f in (*self._followed.values(), *self._left) if f.busy is not None]
        if busy:
            await asyncio.wait(busy)
        self._followed, self._left = {}, []

    # ------------------------------------------------------------------ following

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except (KafkaError, OSError, TaskClosed) as error:
                pause = self._backoff()
                log.warning(
                    "%s: standbys: %s; they go on in %.1f s", self._topology.name, error, pause
                )
            except Exception:
                pause = self._backoff()
                log.exception("%s: standbys go on in %.1f s", self._topology.name, pause)
            else:
                continue
            self._lags.seen({})
            await asyncio.sleep(pause)

    def _backoff(self) -> float:
        self._failures += 1
        first, longest = self._settings.backoff
        return min(first * 2.0 ** min(self._failures, 32), longest)

    async def _serve(self) -> None:
        """Follow with one consumer, for as long as there is anything to follow."""
        self._let_go()
        if not self._followed:
            self._changed.clear()
            await self._changed.wait()
            return
        consumer = AIOKafkaConsumer(
            **self._options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            fetch_max_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
            whole_batches = WholeBatches(consumer)
            self._changed.set()
            while self._followed:
                if self._changed.is_set():
                    self._changed.clear()
                    await self._begin(consumer)
                await self._round(consumer, whole_batches)
        finally:
            self._reading = {}
            await seams.stop(consumer)

    def _let_go(self) -> None:
        while self._left:
            self._unused(self._left.pop().partition)

    async def _begin(self, consumer: AIOKafkaConsumer) -> None:
        """Read what is followed by now, each changelog from where its store is."""
        self._let_go()
        for followed in list(self._followed.values()):
            if followed.replay is None and (followed.after is None or followed.after.done()):
                await self._open(followed)
        now = time.monotonic()
        self._reading = {
            TopicPartition(self._topology.changelog(table.name), partition): _Place(
                followed, table.name
            )
            for partition, followed in self._followed.items()
            if followed.replay is not None and followed.rests_until <= now
            for table in self._topology.tables
        }
        consumer.assign(list(self._reading))
        for tp, place in self._reading.items():
            consumer.seek(tp, place.followed.positions.get(place.table, 0))

    async def _open(self, followed: _Followed) -> None:
        if followed.rests_until <= time.monotonic():
            await self._take(followed, self._stores.open(followed.partition))

    async def _take(self, followed: _Followed, opening: Coroutine[Any, Any, Store]) -> None:
        """Follow with a store that is being opened, if its task is followed still when it is open."""
        try:
            store = await self._busy(followed, opening)
            if self._followed.get(followed.partition) is followed:
                self._begin_with(followed, store)
        except Exception as error:
            self._rest(followed, f"its store does not open: {error}")

    def _begin_with(self, followed: _Followed, store: Store) -> None:
        progress = self._stores.progress(followed.partition)
        held = {} if progress is None else progress.positions
        tables = [table.name for table in self._topology.tables]
        # As far as the store can tell by itself: what it has no name for, it had followed too early.
        known = {} if progress is None else positions_in(progress, progress.marker)
        positions = {table: known[table] for table in tables if table in known}
        followed.fresh = progress is None
        followed.noted_at = self._clock() if progress is None else progress.at
        followed.marker = Marker() if progress is None else progress.marker
        followed.looks_at = 0.0
        replay = Replay(store, positions, followed.noted_at)
        if progress is not None:
            # A table that is not declared is none of this store's; one that was not declared for a
            # while may have missed deletes.
            for table in tables:
                if table not in positions:
                    store.clear(table)
            if positions != held:
                replay.finish(followed.marker)
        followed.replay = replay

    @staticmethod
    async def _busy(followed: _Followed, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do something with a store that takes some time.

        It is done to its end, whatever happens meanwhile: whoever wants the store waits for it, and
        so does `stop`.
        """
        busy = followed.busy = asyncio.get_running_loop().create_task(work)
        await asyncio.wait({busy})
        followed.busy = None
        result: _Result = busy.result()
        return result

    def _rest(self, followed: _Followed, why: str) -> None:
        log.error(
            "%s/%d: standby: %s; it is looked at again in %.0f s, or when its task comes here",
            self._topology.name,
            followed.partition,
            why,
            _REST,
        )
        followed.rests_until = time.monotonic() + _REST
        self._changed.set()
        asyncio.get_running_loop().call_later(_REST, self._changed.set)

    @property
    def _resting(self) -> set[int]:
        now = time.monotonic()
        return {p for p, followed in self._followed.items() if followed.rests_until > now}

    async def _round(self, consumer: AIOKafkaConsumer, whole_batches: WholeBatches) -> None:
        if not self._reading:
            self._lags.seen({}, self._resting)
            await self._changed.wait()
            return
        seams.check_reading(consumer)
        try:
            fetched = await whole_batches.getmany(*self._reading, timeout_ms=_POLL_MS)
        except OffsetOutOfRangeError as error:
            self._changed.set()  # what the fetch had of other partitions is read again
            await self._jump(consumer, error.args[0])
            return
        positions = {tp: await consumer.position(tp) for tp in self._reading}
        oldest = time.time() * 1000 - _FRESH
        at_end = {tp: self._at_end(consumer, tp, positions[tp], oldest) for tp in self._reading}
        by_task: dict[_Followed, dict[str, TopicPartition]] = {}
        for tp, (followed, table) in self._reading.items():
            by_task.setdefault(followed, {})[table] = tp
        for followed, logs in by_task.items():
            if self._followed.get(followed.partition) is not followed:
                continue  # it is the runner's by now, or nobody's
            await self._apply(
                followed,
                {table: fetched[tp] for table, tp in logs.items() if fetched.get(tp)},
                {table: positions[tp] for table, tp in logs.items()},
                all(at_end[tp] for tp in logs.values()),
            )
        self._failures = 0
        if self._lags.due:
            self._lags.seen(self._current_lags(consumer), self._resting)

    @staticmethod
    def _at_end(
        consumer: AIOKafkaConsumer, tp: TopicPartition, position: int, oldest: float
    ) -> bool:
        """Whether a changelog is read up to its end, by an answer that is not too old."""
        stable = consumer.last_stable_offset(tp)
        answered = consumer.last_poll_timestamp(tp) or 0
        return stable is not None and position >= stable and answered > oldest

    async def _jump(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Go on with changelogs that have nothing at the offsets where they are read.

        One that ends before what was read of it is another one, and one that begins behind it lacks
        what was not read: its store is made anew. Whether its task may go on is for the task to say.
        """
        begins = await consumer.beginning_offsets(list(offsets))
        ends = await consumer.end_offsets(list(offsets))
        for tp, offset in offsets.items():
            followed, table = self._reading[tp]
            if self._followed.get(tp.partition) is not followed or followed.replay is None:
                continue
            if offset == 0:  # of an empty store
                await self._begin_behind(followed, tp, table, begins[tp])
                continue
            span = f"is from {begins[tp]} to {ends[tp]}, and it was read up to {offset}"
            await self._make_anew(
                followed,
                f"the changelog {tp.topic} {span}: it was deleted and made anew, or truncated",
            )

    async def _begin_behind(
        self, followed: _Followed, tp: TopicPartition, table: str, begin: int
    ) -> None:
        """Begin where a changelog begins whose front was cut, if a reset has given that up."""
        marker = await self._marker_of(followed)
        if marker is None:
            return
        if begin > marker.begins.get(table, 0):
            self._rest(followed, f"the front of {tp.topic} was cut, up to {begin}")
        else:
            followed.positions[table] = begin

    async def _marker_of(self, followed: _Followed) -> Marker | None:
        """Return the last marker of a task, if that is followed still; where it has none to go by, it rests."""
        marks = TopicPartition(self._topology.checkpoint_topic, followed.partition)
        name = f"{self._topology.name}/{followed.partition}: standby"
        try:
            async with self._readers.reader() as reader:
                marker = await last_marker(reader, marks, name, _LOOK_MOST)
        except (StoreError, TaskClosed) as error:
            self._rest(followed, str(error))
            return None
        return marker if self._followed.get(followed.partition) is followed else None

    async def _is_of_the_task(self, followed: _Followed) -> bool:
        """Whether a store is of the state that its task has, and is followed still.

        One that is not is made anew; one that knows of none is told which one that is.
        """
        if time.monotonic() < followed.looks_at:
            return True
        marker = await self._marker_of(followed)
        if marker is None:
            return False
        why = None if followed.fresh else why_of_another_state(followed.marker.incarnation, marker)
        then = followed.marker.tables
        if why is None and any(then[name] != marker.tables.get(name) for name in then):
            why = "one of its tables was taken out, and has come back since"
        if why is not None:
            await self._make_anew(followed, f"its store is not gone on from: {why}")
            return False
        names = {"incarnation": marker.incarnation, "tables": marker.tables}
        followed.marker = msgspec.structs.replace(followed.marker, **names)
        followed.fresh = False
        # A checkpoint that comes may name what this one did not.
        all_named = marker.tables.keys() >= {table.name for table in self._topology.tables}
        named = marker.incarnation and all_named
        followed.looks_at = math.inf if named else time.monotonic() + _REST
        return True

    # ------------------------------------------------------------------ writing

    async def _apply(
        self,
        followed: _Followed,
        tables: Mapping[str, Sequence[Any]],
        reached: Mapping[str, int],
        current: bool,
    ) -> None:
        """Write what was fetched of a task; `current` is whether that is all that there is."""
        assert followed.replay is not None
        now = self._clock()
        if now - followed.replay.current_at > self._stores.tombstones_kept:
            # The broker was away, or this process: deletes may be gone from what comes next.
            await self._make_anew(followed, "its store is too old")
            return
        if tables and not await self._is_of_the_task(followed):
            return
        try:
            if tables:
                fault_point("standby.before-write")
                current_at = now if current else None
                work = followed.replay.apply(tables, reached, followed.marker, current_at)
                await self._busy(followed, work)
                fault_point("standby.written")
                self.records += sum(map(len, tables.values()))
                followed.noted_at = followed.replay.current_at
            else:
                followed.replay.positions.update(reached)
                self._note(followed, now, current)
        except DamagedStoreError as error:
            await self._replace(followed, error)
        except Exception as error:
            self._rest(followed, f"its store is not written: {error}")

    def _note(self, followed: _Followed, now: int, current: bool) -> None:
        """Let a store that has nothing to write know once in a while that it is up to date."""
        assert followed.replay is not None
        if current:
            followed.replay.current_at = now
            if now - followed.noted_at > self._stores.noted_every:
                followed.replay.finish(followed.marker)
                followed.noted_at = now

    async def _replace(self, followed: _Followed, error: DamagedStoreError) -> None:
        if self._followed.get(followed.partition) is not followed:
            return  # whoever has the store now finds it damaged as well
        followed.replay = None
        self._changed.set()
        try:
            await self._busy(followed, self._stores.replace(followed.partition, error))
        except StoreError as refused:
            self._rest(followed, str(refused))

    async def _make_anew(self, followed: _Followed, why: str) -> None:
        log.warning(
            "%s/%d: standby: %s; it is made anew from the changelog",
            self._topology.name,
            followed.partition,
            why,
        )
        followed.replay = None
        self._changed.set()
        await self._take(followed, self._stores.make_anew(followed.partition))

    # ------------------------------------------------------------------ how far it is

    def _current_lags(self, consumer: AIOKafkaConsumer) -> dict[int, dict[str, int]]:
        lags: dict[int, dict[str, int]] = {}
        unknown = set()
        for tp, (followed, table) in self._reading.items():
            if self._followed.get(tp.partition) is not followed:
                continue
            stable = consumer.last_stable_offset(tp)
            if stable is None:
                unknown.add(tp.partition)
            else:
                position = followed.positions.get(table, 0)
                lags.setdefault(tp.partition, {})[tp.topic] = max(0, stable - position)
        return {task: lag for task, lag in lags.items() if task not in unknown}
