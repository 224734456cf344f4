"""A task: one partition number of one topology, without a transport.

It takes slices of source partitions, runs the agents over them, moves event time, closes windows,
and hands out a `Checkpoint`: everything that the transaction publishes. What a batch wrote stays in
overlays until `committed` says that the transaction is known to be committed, or `abort` takes it
back. The engine gives it Kafka, the test harness a log in memory; nothing here knows which.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

import msgspec

from streamapp.engine.agent import AgentRun, BatchAgent
from streamapp.engine.batch import Batch, Record
from streamapp.engine.checkpoint import Checkpoint, Slice, Surroundings, WindowRecord
from streamapp.engine.context import current_outbox
from streamapp.engine.dead_letters import dead_letter
from streamapp.engine.foreach import Intent
from streamapp.engine.key_by import KeyBy, UpstreamMark, is_mark, mark_record, read_mark
from streamapp.engine.live_sides import LiveSides
from streamapp.engine.marker import (
    LedgerBatch,
    LedgerEntry,
    Marker,
    Progress,
    decode_progress,
    encode,
    new_incarnation,
)
from streamapp.engine.outbox import Outbox, Outgoing
from streamapp.engine.parts import Fault
from streamapp.engine.settings import EngineSettings, Guarantee
from streamapp.engine.topology import Topology
from streamapp.engine.watermarks import Watermarks
from streamapp.errors import DecodeError, RecordError, StoreError
from streamapp.state.cursor import Cursor
from streamapp.state.plain import PlainState
from streamapp.state.store import Store, TableWrites
from streamapp.state.table import TaskWindows, WindowedTable

__all__ = ["Task"]


class Task:
    """One partition number of one topology.

    Arguments:
        store: its state store, restored to the marker that `restored` is given.
    """

    def __init__(
        self,
        topology: Topology,
        partition: int,
        store: Store,
        settings: EngineSettings,
        surroundings: Surroundings,
    ) -> None:
        self.topology = topology
        self.partition = partition
        self.store = store
        self.epoch = 0
        self._settings = settings
        self._world = surroundings
        self.context = copy_context()
        self._live = LiveSides(topology, store, self.context, self._new_outbox)
        self._sources = {source.name: source for source in topology.sources}
        self.marker = Marker()
        self.positions: dict[str, int] = {}
        #: When its store was last known to hold all that there was, in milliseconds.
        self.noted_at = 0
        self.watermarks = self._new_watermarks()
        #: What downstream was told by the last checkpoint that told it anything, and by this one.
        self._announced: UpstreamMark | None = None
        self._announcing: UpstreamMark | None = None
        #: Called before a `foreach_batch` is given a batch; what it raises comes out of `process`.
        self.announce: Callable[[Intent], Awaitable[None]] | None = None
        self._intent: Intent | None = None
        self._last_commit: float | None = None
        self._dead_letters = 0
        #: Who is at work on which batch, and whether windows are being closed: see `fault`.
        self._agent: BatchAgent | None = None
        self._batch: Batch | None = None
        self._in_window = False
        self._latest: int | None = None
        self._runs = [AgentRun(agent, self.context, self._emit) for agent in topology.agents]

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def name(self) -> str:
        """`topology/partition`."""
        return f"{self.topology.name}/{self.partition}"

    @property
    def tables(self) -> Mapping[str, PlainState | TaskWindows]:
        """The live sides of its tables, by name."""
        return self._live.tables

    def _new_outbox(self) -> Outbox:
        world = self._world
        return Outbox(world.limits, self._settings.max_record_bytes, world.partitions)

    def _new_watermarks(self) -> Watermarks:
        sources = {
            name: [
                f"{upstream.name}/{task}"
                for upstream in self.topology.feeds.get(name, ())
                for task in range(self._world.partitions[upstream.sources[0].name])
            ]
            for name in self._sources
        }
        return Watermarks(sources, round(self._settings.idle_timeout * 1000), self._world.clock())

    # ------------------------------------------------------------------ where it stands

    def restored(self, marker: Marker, positions: dict[str, int]) -> None:
        """Take up a checkpoint: the store holds its state, `positions` of the changelogs included.

        Raises:
            StoreError: a windowed table had windows of another shape.
        """
        for table, _ in self._live.windowed:
            before, now = marker.windows.get(table.name), (table.spec.size, table.spec.step)
            if before is not None and before != now:
                raise StoreError(
                    f"the table {table.name!r} of {self.name} was kept in windows of {before[0]} ms every {before[1]} ms, "
                    f"it is declared with {now[0]} every {now[1]}: its panes mean something else. Keep the shape, or "
                    "give the table another name to begin anew"
                )
        # What has no name yet begins, or is of an older version.
        marker = msgspec.structs.replace(
            marker,
            app=self.topology.app_id,
            incarnation=marker.incarnation or new_incarnation(),
            tables={
                table.name: marker.tables.get(table.name) or new_incarnation()
                for table in self.topology.tables
            },
        )
        self.marker = marker
        self.positions = dict(positions)
        self.noted_at = self._world.clock()
        self.watermarks.restore(marker.marks, marker.idle, marker.watermark)
        for table, state in self._live.windowed:
            state.restored(marker.closed.get(table.name))
        self._announced = None

    def announced(self, intent: Intent | None) -> None:
        """Take up the last intent, after `restored`: if no checkpoint covers it, its batch comes again.

        Raises:
            StoreError: it belongs to checkpoints that are not there.
        """
        if intent is not None:
            intent.check_follows(self.marker, self.name)
        self._intent = intent
        if (pending := self.pending) is not None:
            self.marker.sources = {pending.topic: pending.from_offset, **self.marker.sources}

    @property
    def pending(self) -> Intent | None:
        """Which batch has to be presented next, as it was, since it may have been presented before."""
        intent = self._intent
        if intent is None or intent.sequence <= self.marker.sequence:
            return None
        return None if self._settings.guarantee is Guarantee.AT_MOST_ONCE else intent

    def note(self, at: int) -> None:
        """Let the store know that it holds all that there was at a time, in milliseconds.

        Nothing else changes in it: what this task stands at may be in no marker yet.

        Raises:
            StoreError: it cannot be written.
        """
        self.noted_at = at
        raw = self.store.progress
        if raw is not None:
            stored = decode_progress(raw, f"the state store {self.store.path}")
            stored.at = at
            self.store.write([], encode(stored))

    # ------------------------------------------------------------------ a batch

    async def process(
        self,
        slices: Sequence[Slice],
        caught_up: Iterable[str] = (),
        condemned: Fault | None = None,
    ) -> Checkpoint:
        """Run the agents over what was fetched; return the checkpoint that makes it visible.

        No slices at all is a checkpoint of time alone: it closes what the watermark closes.

        Arguments:
            condemned: why the records go to the dead letters instead of to the agents.

        Raises:
            Exception: what an agent raised, with `abort` still to be called, and `fault` before.
        """
        self._live.begin()
        try:
            return await self._attempt(slices, caught_up, condemned)
        finally:
            self._live.end()

    async def _attempt(
        self, slices: Sequence[Slice], caught_up: Iterable[str], condemned: Fault | None
    ) -> Checkpoint:
        began = time.perf_counter()
        now = self._world.clock()
        self._latest = None
        self._agent, self._batch, self._in_window = None, None, False
        batches = [await self._process(part, now, condemned) for part in slices]
        self._live.cursor.clear()
        watermark = self.watermarks.advance(now, caught_up) if self.topology.windowed else None
        late = sum(state.late for _, state in self._live.windowed)
        self._in_window = True
        for table, state in self._live.windowed:
            self._emit_windows(table, state, watermark)
        self._in_window = False
        for combiner in self._live.combiners:
            combiner.flush(now if self._latest is None else self._latest)
        self._announce(now)
        writes = [writes for state in self.tables.values() if not (writes := state.changes()).empty]
        self._check_sizes(writes)
        marker = self._next_marker(slices, writes)
        outputs = self._live.outbox.take()
        entry = LedgerEntry(
            topology=self.topology.name,
            partition=self.partition,
            sequence=marker.sequence,
            worker=self._world.worker,
            epoch=self.epoch,
            guarantee=self._settings.guarantee.value,
            at=now,
            batches=batches,
            jumps=[jump for part in slices for jump in part.jumps(self.partition)],
            changelogs=marker.changelogs,
            outputs=len(outputs),
            changes=sum(marker.changes.values()),
            late=late,
            dead_letters=self._dead_letters,
            watermark=watermark,
            processing=(time.perf_counter() - began) * 1000,
            previous_commit=self._last_commit,
        )
        return Checkpoint(marker, entry, outputs, writes)

    def fault(self, error: Exception) -> Fault:
        """Return what `process` raised with where it was; to be asked before `abort`."""
        batch, index = self._batch, self._live.cursor.index
        if batch is None:
            return Fault(error, in_window=self._in_window)
        at_hand = batch.records[index].offset if 0 <= index < len(self._live.cursor.times) else None
        return Fault(error, self._agent, batch.topic, at_hand)

    async def _process(self, part: Slice, now: int, condemned: Fault | None) -> LedgerBatch:
        source = self._sources[part.topic]
        records = part.records
        if isinstance(source, KeyBy):
            records = self._take_marks(part.topic, records)
        intended = len(records)
        if (pending := self.pending) is not None:
            pending.check_whole(records, self.name, self.topology.intents_topic)
            records = self._readable_before(pending, records)
        batch = Batch(
            source,
            self.partition,
            part.from_offset,
            part.until_offset,
            records,
            self._live.cursor,
            lambda record, error: self._dead_letter(part.topic, record, error),
        )
        if condemned is not None:
            for record in records:
                self._dead_letter(part.topic, record, condemned.error, condemned.agent)
            self.watermarks.seen(part.topic, now)
        elif records:
            self._batch = batch
            if self.announce is not None and len(batch):
                intent = pending or Intent.of(batch, records, self.marker.sequence + 1)
                await self.announce(intent)
                self._intent = intent
            for run in self._runs:
                if run.agent.topic.name == part.topic:
                    self._agent = run.agent
                    batch.at_hand()
                    await run.process(batch)
                    self._send_late(batch)
            self._agent = self._batch = None
            if self.topology.windowed and (times := batch.event_times):
                latest = max(times)
                self._latest = latest if self._latest is None else max(self._latest, latest)
                self.watermarks.observe(part.topic, latest - source.grace_ms, now)
            else:
                self.watermarks.seen(part.topic, now)
        return part.batch(self.partition, intended)

    def _readable_before(self, intent: Intent, records: Sequence[Record]) -> Sequence[Record]:
        """Return records without those that can be read now, and could not when they were presented."""
        if not intent.unreadable:
            return records
        unreadable = set(intent.unreadable)
        doubtful = Batch(
            self._sources[intent.topic],
            self.partition,
            intent.from_offset,
            intent.until_offset,
            [record for record in records if record.offset in unreadable],
            Cursor(),
            lambda record, error: None,
        )
        changed = set(doubtful.offsets)
        error = DecodeError(f"it could not be read when {intent.batch} was first presented")
        for record in doubtful.records:
            self._dead_letter(intent.topic, record, error)
        return [record for record in records if record.offset not in changed]

    def _take_marks(self, topic: str, records: Sequence[Record]) -> list[Record]:
        data = []
        for record in records:
            if record.value is None and is_mark(record):
                mark = read_mark(record)
                self.watermarks.hear(topic, mark.upstream, mark.time, mark.idle)
            else:
                data.append(record)
        return data

    def _emit(self, agent: BatchAgent, value: Any) -> None:
        # The agent's, not the task's: an agent may yield when it has no batch.
        outbox = current_outbox.get()
        assert outbox is not None
        for sink in agent.sinks:
            outbox.put(sink.outgoing(None, value))

    def _dead_letter(
        self, topic: str, record: Record, error: Exception, agent: BatchAgent | None = None
    ) -> None:
        self._dead_letters += 1
        target = self._world.dead_letter_topic
        limit = self._live.outbox.limit(target)
        name = None if agent is None else agent.name
        self._live.outbox.put(
            dead_letter(target, topic, self.partition, record, error, limit, name)
        )

    def _send_late(self, batch: Batch) -> None:
        for table, state in self._live.windowed:
            if state.late_records and table.late_topic is not None:
                name = table.late_topic.get_topic_name()
                for index in state.late_records:
                    record = batch.records[index]
                    origin = f"{batch.topic}:{batch.partition}:{record.offset}"
                    headers = [
                        *record.headers,
                        ("streamapp-late-for", f"{table.name} {origin}".encode()),
                    ]
                    late = Outgoing(name, record.key, record.value, headers=headers)
                    try:
                        self._live.outbox.put(late)
                    except RecordError as error:  # the headers are what made it too large
                        self._dead_letter(batch.topic, record, error)
            state.late_records = []

    # ------------------------------------------------------------------ event time

    def due(self, caught_up: Iterable[str]) -> bool:
        """Whether a checkpoint without records is worth it: a window closes, or downstream waits."""
        if not self.topology.windowed:
            return False
        watermark = self.watermarks.advance(self._world.clock(), caught_up)
        mark = self._mark()
        # Going on alone is no news for downstream until it has closed something.
        alone = self.watermarks.idle and self._owes_windows
        if self.topology.key_bys and mark is not None and mark != self._announced and not alone:
            return True
        if watermark is None:
            return False
        ends = (state.next_close() for _, state in self._live.windowed)
        return any(end is not None and end <= watermark for end in ends)

    def _mark(self) -> UpstreamMark | None:
        """Return what downstream has to know, or `None` while there is nothing to say.

        Without input, a task is idle only when nothing is left that `on_close` may send: downstream
        must not go ahead of it by the clock.
        """
        if self.watermarks.idle and not self._owes_windows:
            return UpstreamMark(self.name, None, True)
        if self.watermarks.watermark is None and self._announced is None:
            return None
        return UpstreamMark(self.name, self.watermarks.watermark, False)

    @property
    def _owes_windows(self) -> bool:
        """Whether windows are open that something is called with when they close."""
        return any(
            table.closer is not None and state.next_close() is not None
            for table, state in self._live.windowed
        )

    def _announce(self, now: int) -> None:
        mark = self._mark()
        if mark is None or mark == self._announced:
            return
        self._announcing = mark
        for key_by in self.topology.key_bys:
            for partition in range(self._world.partitions[key_by.name]):
                self._live.outbox.put(mark_record(key_by.name, partition, mark, now))

    def _emit_windows(
        self, table: WindowedTable, state: TaskWindows, watermark: int | None
    ) -> None:
        closing = state.close(watermark)
        for window in closing if table.final_topic or table.closer else ():
            values = state.window_items(window)
            if table.final_topic is not None:
                for key, value in values.items():
                    self._put_window(
                        table.final_topic,
                        table,
                        WindowRecord(key, window.start, window.end, value, True),
                    )
            if table.closer is not None:
                self.context.run(table.closer, window, values)
        if table.updates_topic is not None:
            for found in state.updated():
                self._put_window(
                    table.updates_topic,
                    table,
                    WindowRecord(
                        found.key, found.window.start, found.window.end, found.value, False
                    ),
                )

    def _put_window(self, topic: Any, table: WindowedTable, record: WindowRecord) -> None:
        key = table.key_codec.encode(record.key)
        self._live.outbox.put(Outgoing(topic.get_topic_name(), key, msgspec.json.encode(record)))

    # ------------------------------------------------------------------ the checkpoint

    def _check_sizes(self, writes: list[TableWrites]) -> None:
        for table in writes:
            topic = self.topology.changelog(table.table)
            limit = self._live.outbox.limit(topic)
            for key, value in table.puts:
                if len(key) + len(value) > limit - 128:
                    Outbox({}, limit).put(Outgoing(topic, key, value))

    def _next_marker(self, slices: Sequence[Slice], writes: Iterable[TableWrites]) -> Marker:
        before = self.marker
        return msgspec.structs.replace(
            before,
            sequence=before.sequence + 1,
            sources={**before.sources, **{part.topic: part.until_offset for part in slices}},
            marks=self.watermarks.marks,
            idle=self.watermarks.idle_upstreams,
            watermark=self.watermarks.watermark,
            closed={
                table.name: state.closed_until
                for table, state in self._live.windowed
                if state.closed_until is not None
            },
            windows={
                table.name: (table.spec.size, table.spec.step) for table, _ in self._live.windowed
            },
            changelogs=dict(self.positions),
            changes={table.table: len(table.puts) + len(table.deletes) for table in writes},
        )

    def skipping(self, slices: Sequence[Slice]) -> Checkpoint:
        """Return a checkpoint that only moves the offsets: at most once commits it first.

        What upstream tasks say in them is heard all the same: a batch that is lost must not make
        this task wait for a word that is not said twice.
        """
        batches = []
        for part in slices:
            records = part.records
            if isinstance(self._sources[part.topic], KeyBy):
                records = self._take_marks(part.topic, records)
            batches.append(part.batch(self.partition, len(records)))
        marker = msgspec.structs.replace(
            self.marker,
            marks=self.watermarks.marks,
            idle=self.watermarks.idle_upstreams,
            sequence=self.marker.sequence + 1,
            sources={**self.marker.sources, **{part.topic: part.until_offset for part in slices}},
            changelogs=dict(self.positions),
            changes={},
        )
        entry = LedgerEntry(
            kind="offsets",
            topology=self.topology.name,
            partition=self.partition,
            sequence=marker.sequence,
            worker=self._world.worker,
            epoch=self.epoch,
            guarantee=self._settings.guarantee.value,
            at=self._world.clock(),
            batches=batches,
            jumps=[jump for part in slices for jump in part.jumps(self.partition)],
            changelogs=marker.changelogs,
        )
        return Checkpoint(marker, entry)

    def committed(self, checkpoint: Checkpoint, ends: dict[str, int], took: float | None) -> None:
        """The transaction is known to be committed: bring it to disk, and go on from it.

        Arguments:
            ends: where each table's changelog ends now, for those that changed.
            took: how long the commit took, in milliseconds.
        """
        self.marker = checkpoint.marker
        self.positions.update(ends)
        self.noted_at = self._world.clock()
        progress = Progress(marker=self.marker, positions=self.positions, at=self.noted_at)
        self.store.write(checkpoint.writes, encode(progress))
        self._live.commit()
        if self._announcing is not None:
            self._announced, self._announcing = self._announcing, None
        self._last_commit = took
        self._dead_letters = 0

    async def abort(self) -> None:
        """The batch did not happen: drop everything that it wrote, and end all agents.

        Also those that had done with it: what they remember of it in their local variables did not
        happen either. They begin anew with the next batch.
        """
        self._live.rollback()
        self._dead_letters = 0
        self._announcing = None
        self.watermarks.restore(self.marker.marks, self.marker.idle, self.marker.watermark)
        for run in self._runs:
            await run.stop()

    async def close(self) -> None:
        """End the agents and close the store."""
        await self.abort()
        self.store.close()
