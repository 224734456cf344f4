"""Recovery: from a changelog and the latest marker to a task that stands where it was.

A task that has just fenced its predecessor finds a closed log: what is read up to the last stable
offset is exactly the last committed checkpoint. A restore is finished when *position ≥ target*;
control records carry no data, and waiting for a record there would hang. Nothing beyond the target
is taken: a task that is fenced meanwhile would join what another wrote later to what it has.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from aiokafka import TopicPartition

from streamapp.engine.agent import tables_of
from streamapp.engine.compacted import last_value
from streamapp.engine.copies import Span, positions_in, why_outdated
from streamapp.engine.foreach import INTENT_KEY, Intent, decode_intent
from streamapp.engine.marker import MARKER_KEY, Marker, Progress, decode_marker
from streamapp.engine.progress import Opening
from streamapp.engine.readers import Reader, Readers
from streamapp.engine.replay import Replay
from streamapp.engine.stores import progress_of
from streamapp.engine.topology import Topology
from streamapp.errors import StoreError
from streamapp.state.store import Store

__all__ = ["Restore"]

log = logging.getLogger(__name__)

#: Puts a store that is on its way to a marker in the place of an empty one, if there is one; it is
#: called with the marker and the changelogs' spans, by table.
SnapshotSource = Callable[[Marker, Mapping[str, Span]], Awaitable[Store]]


class Restore:
    """Brings a task's store to the last committed checkpoint.

    Call it after the task's producer has been started, and not before.

    Arguments:
        clock: milliseconds since the epoch.
        agreed: called with the marker, or with `None` for none, before anything else is read; it raises
            when that is not to be believed.
        opening: is told how far it is.
        renew: called with why the store cannot be gone on from, and the marker; it returns an empty one
            in its place.
        snapshot: where the store is empty, called with the marker and the changelogs' spans; it
            returns a store that holds a part of them, in place of the empty one, or an empty one.

    Attributes:
        store: the one that is restored.
    """

    def __init__(
        self,
        readers: Readers,
        topology: Topology,
        partition: int,
        store: Store,
        clock: Callable[[], int],
        agreed: Callable[[Marker | None], Awaitable[None]],
        opening: Opening,
        renew: Callable[[str, Marker], Awaitable[Store]],
        snapshot: SnapshotSource | None = None,
    ) -> None:
        self._readers = readers
        self._topology = topology
        self._partition = partition
        self.store = store
        self._clock = clock
        self._agreed = agreed
        self._opening = opening
        self._renew = renew
        self._snapshot = snapshot
        #: Changelog records applied.
        self.records = 0
        #: What a `foreach_batch` was last about to be given.
        self.intent: Intent | None = None

    @property
    def _name(self) -> str:
        return f"{self._topology.name}/{self._partition}"

    async def run(self) -> tuple[Marker | None, dict[str, int]]:
        """Restore; return the marker (`None` for a task without a checkpoint) and the positions.

        Raises:
            StoreError: store, changelog and marker contradict each other.
            Exception: what `agreed` has raised.
        """
        marks = TopicPartition(self._topology.checkpoint_topic, self._partition)
        logs = {
            TopicPartition(self._topology.changelog(table.name), self._partition): table.name
            for table in self._topology.tables
        }
        intents = TopicPartition(self._topology.intents_topic, self._partition)
        compacted = [marks, intents] if self._topology.presents else [marks]
        async with self._readers.reader() as reader:
            reader.assign([*compacted, *logs])
            now = self._clock()
            begins, ends = await asyncio.gather(
                reader.begins([*compacted, *logs]),
                reader.stable_ends([*compacted, *logs], self._name),
            )
            found = await last_value(reader, marks, MARKER_KEY, begins[marks], ends[marks])
            marker = None if found is None else decode_marker(found[0], f"the marker {found[1]}")
            if marker is not None:
                self._refuse_another_application(marker)
                self._refuse_half_reset(marker)
                self._tell_unused(marker)
            await self._agreed(marker)
            if self._topology.presents:
                span = begins[intents], ends[intents]
                found = await last_value(reader, intents, INTENT_KEY, *span)
                self.intent = (
                    None if found is None else decode_intent(found[0], f"the intent {found[1]}")
                )
                await self._check_source(reader, 0 if marker is None else marker.sequence)
            spans = {table: Span(begins[tp], ends[tp]) for tp, table in logs.items()}
            if marker is not None:
                await self._find_a_store(marker, spans)
            positions = self._start_positions(marker, spans)
            await self._apply(reader, logs, positions, ends, marker, now)
        return marker, positions

    def _refuse_another_application(self, marker: Marker) -> None:
        if marker.app not in ("", self._topology.app_id):
            raise StoreError(
                f"the last checkpoint in {self._topology.checkpoint_topic}[{self._partition}] is of the application "
                f"{marker.app}, whose topics have the same names as those of {self._topology.app_id}: give the topology "
                f"{self._topology.name} another name"
            )

    def _refuse_half_reset(self, marker: Marker) -> None:
        if marker.resetting:
            raise StoreError(
                f"the task {self._name} is being reset, or its reset was interrupted: wait for it to end, or run it "
                f"again: streamapp reset {self._topology.name}"
            )

    def _tell_unused(self, marker: Marker) -> None:
        unused = marker.changelogs.keys() - {table.name for table in self._topology.tables}
        if unused:
            log.info(
                "%s: no agent uses %s any more; the changelogs stay, %s: delete them if you do not want them back",
                self._name,
                ", ".join(sorted(unused)),
                ", ".join(self._topology.changelog(table) for table in sorted(unused)),
            )

    async def _check_source(self, reader: Reader, sequence: int) -> None:
        """Refuse a source that ends before what is to be presented again: the rest never comes.

        What a checkpoint or a reset covers is presented no more, whatever became of its source.
        """
        if self.intent is None or self.intent.sequence <= sequence:
            return
        source = TopicPartition(self.intent.topic, self._partition)
        end = (await reader.ends([source]))[source]
        if end < self.intent.until_offset:
            raise StoreError(
                f"{source.topic}[{source.partition}] ends at {end}, and {self._name} has presented {self.intent.batch}: "
                "the topic was deleted and made anew, or truncated. Restore it, or begin anew: give the foreach_batch "
                "another name"
            )

    async def _find_a_store(self, marker: Marker, spans: Mapping[str, Span]) -> None:
        """Leave a store that is outdated, and begin with a snapshot in place of an empty one."""
        stored = progress_of(self.store)
        if stored is not None:
            why = why_outdated(stored, marker, spans)
            if why is not None:
                self.store = await self._renew(why, marker)
        if self.store.progress is None and self._snapshot is not None:
            self.store = await self._snapshot(marker, spans)

    def _start_positions(self, marker: Marker | None, spans: Mapping[str, Span]) -> dict[str, int]:
        """Return where the store goes on in each changelog.

        Raises:
            StoreError: something of the state that a checkpoint has seen is not there any more.
        """
        stored = progress_of(self.store)
        self._check_marker(stored, marker)
        positions: dict[str, int] = {}
        held = positions_in(stored, marker or Marker())
        for table, span in spans.items():
            position = held.get(table)
            self._check_changelog(table, span, position, marker or Marker())
            if stored is not None and position is None:
                # It was not declared for a while: what the store has of it may have missed deletes.
                self.store.clear(table)
            positions[table] = span.begin if position is None else position
        return positions

    def _check_marker(self, stored: Progress | None, marker: Marker | None) -> None:
        """Refuse a last marker that is behind the one of the store, or missing."""
        known = Marker() if stored is None else stored.marker
        seen = known.sequence
        if seen <= (0 if marker is None else marker.sequence) and not (
            marker is None and known.incarnation
        ):
            return
        raise StoreError(
            f"the task {self._name} has seen its checkpoint {max(seen, 1)}, and the last one in "
            f"{self._topology.checkpoint_topic}[{self._partition}] is "
            f"{'none' if marker is None else marker.sequence}: the topic was deleted and made anew, or truncated. "
            f"{self._way_out}"
        )

    def _check_changelog(
        self, table: str, span: Span, position: int | None, marker: Marker
    ) -> None:
        """Refuse a changelog that has lost its end, or what the store lacks of its front."""
        where = f"{self._topology.changelog(table)}[{self._partition}]"
        known = max(position or 0, marker.least_end(table))
        if known > span.end:
            raise StoreError(
                f"the changelog {where} ends at {span.end}, the task {self._name} has seen {known}: it was deleted "
                f"and made anew, or truncated. {self._way_out}"
            )
        # A compacted topic begins where it always did, whatever compaction takes.
        if span.begin > max(position or 0, marker.begins.get(table, 0)):
            raise StoreError(
                f"the changelog {where} begins at {span.begin}, and what was before is not in the store of "
                f"{self._name} either: its front was cut, by deleting records or by a cleanup.policy with delete. Start "
                f"this task where its store is whole, or with a snapshot that is young enough. {self._way_out}"
            )

    def _strange_tables(self, marker: Marker | None) -> list[str]:
        """Return the tables that no checkpoint can have written: what is in them came from elsewhere.

        A table that was taken out and comes back has left its sources in the marker.
        """
        if marker is None:
            return [table.name for table in self._topology.tables]
        known = marker.tables.keys() | marker.changelogs.keys() | marker.windows.keys()
        new = {
            table.name
            for agent in self._topology.agents
            if agent.topic.name not in marker.sources
            for table in tables_of(agent)
        }
        return sorted(new - known)

    def _of_nobody(self, tables: Iterable[str]) -> str:
        names = ", ".join(
            f"{self._topology.changelog(table)}[{self._partition}]" for table in tables
        )
        return (
            f"there is something in {names}, and no checkpoint of the task {self._name} in "
            f"{self._topology.checkpoint_topic} knows of it: that topic was deleted and made anew, or the table was "
            "another topology's before. Restore the topic, give the agent its topology back (topology='…'), or begin anew, "
            f"with empty tables: streamapp reset {self._topology.name}"
        )

    @property
    def _way_out(self) -> str:
        return (
            f"Restore the topic, or give up this state: streamapp reset {self._topology.name}; the copies of it (other "
            "workers' stores, snapshots) are not used any more after that"
        )

    async def _apply(
        self,
        reader: Reader,
        logs: Mapping[TopicPartition, str],
        positions: dict[str, int],
        ends: Mapping[TopicPartition, int],
        marker: Marker | None,
        now: int,
    ) -> None:
        """Write what the changelogs hold up to their ends, where they were `now`.

        Raises:
            StoreError: they hold something that no checkpoint of this task has written.
        """
        stored = progress_of(self.store)
        strange = self._strange_tables(marker)
        replay = Replay(self.store, positions, now if stored is None else stored.at)
        targets = {table: ends[tp] for tp, table in logs.items()}
        total = sum(max(end - positions[table], 0) for table, end in targets.items())
        self._opening.begin(total)
        behind = [tp for tp, table in logs.items() if positions[table] < ends[tp]]
        reader.rest()
        for tp in behind:
            reader.read(tp, positions[logs[tp]])
        while behind:
            fetched, read = await reader.fetch(*behind)
            until = {logs[tp]: min(position, ends[tp]) for tp, position in read.items()}
            records = {logs[tp]: _before(ends[tp], found) for tp, found in fetched.items()}
            if not records and all(positions[table] == until[table] for table in until):
                continue
            if found := [table for table in strange if records.get(table)]:
                raise StoreError(self._of_nobody(found))
            await replay.apply(records, until, marker or Marker())
            behind = [tp for tp in behind if positions[logs[tp]] < ends[tp]]
            missing = sum(max(end - positions[table], 0) for table, end in targets.items())
            self._opening.move(total - missing, replay.records, replay.bytes)
        replay.finish(marker or Marker(), now)
        self.records = replay.records
        if self.records:
            log.info("%s restored %d changelog records", self._name, self.records)


def _before(end: int, records: Sequence[Any]) -> Sequence[Any]:
    """Return the records below an offset, of some in the order of their offsets."""
    return records[: bisect_left(records, end, key=attrgetter("offset"))]
