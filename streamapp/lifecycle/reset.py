"""A reset: topologies begin anew, with empty tables, from a place in their sources.

State is not deleted but emptied: each key of the changelogs gets a tombstone, and each task a marker
that says where it begins, of another incarnation. So it is no matter where stores are: a worker that was
away, and a host that nobody thought of, do not go on from what they have.

The crash scenarios: first every task gets a marker that says that it is being reset, which no worker
opens; then the tables are emptied, in transactions of a bounded size; then one transaction a task has
the new marker, the group's offsets and the ledger's entry. Whoever is interrupted in between leaves
tasks that refuse to open and name the command; run again, it ends as it would have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from aiokafka import TopicPartition

from streamapp.engine.app import App
from streamapp.engine.key_by import KeyBy
from streamapp.engine.marker import Marker, new_incarnation
from streamapp.engine.outbox import Outgoing
from streamapp.engine.producer import TaskProducer
from streamapp.engine.topology import Topology
from streamapp.faults import fault_point
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.reset import reset_entry
from streamapp.lifecycle.beginning import Beginning, begins_of
from streamapp.lifecycle.errors import LifecycleError
from streamapp.lifecycle.fence import entry_record, fenced, marker_record
from streamapp.lifecycle.membership import refuse_members
from streamapp.lifecycle.topics import make_topics, task_count

__all__ = ["Reset", "TopologyReset"]

log = logging.getLogger(__name__)

#: Tombstones in one transaction.
_CHUNK: Final = 10_000


class TopologyReset(msgspec.Struct, kw_only=True):
    """What a reset does to one topology; `kind` says which of the two resets it is.

    Attributes:
        tasks: how many there are.
        group: whose offsets are set.
        offsets: by `topic:partition`, from where it stands (`None`: nowhere yet) to where it begins.
        changelogs: the changelogs that are emptied, with the number of offsets that they hold, which
            is what their keys are at most.
    """

    kind: str
    topology: str
    group: str
    tasks: int
    offsets: dict[str, tuple[int | None, int]]
    changelogs: dict[str, int]


class Reset:
    """Resets topologies of an application, together.

    Arguments:
        reader: connected.
        topologies: with all that they are joined with by `key_by`.
        beginning: where they begin.
        why: for the ledger.
    """

    def __init__(
        self,
        app: App,
        reader: LedgerReader,
        topologies: Sequence[Topology],
        beginning: Beginning,
        why: str = "streamapp reset",
    ) -> None:
        self._app = app
        self._reader = reader
        self._topologies = topologies
        self._beginning = beginning
        self._why = why

    # ------------------------------------------------------------------ looking

    async def plan(self) -> list[TopologyReset]:
        """Return what would be done; nothing is written.

        Raises:
            LifecycleError: workers are running, a source is not there, or they are joined with others.
        """
        await self._refuse()
        return [await self._plan_of(topology) for topology in self._topologies]

    async def _plan_of(self, topology: Topology) -> TopologyReset:
        reader = self._reader
        tasks = await task_count(reader, topology)
        standing = await reader.standing(topology)
        begins = await begins_of(reader, topology, standing.partitions, self._beginning)
        offsets: dict[str, tuple[int | None, int]] = {}
        for tp, offset in begins.items():
            marker = standing.markers.get(tp.partition, Marker())
            known = marker.sources.get(tp.topic, standing.committed.get(tp))
            offsets[f"{tp.topic}:{tp.partition}"] = (known, offset)
        changelogs: dict[str, int] = {}
        for table in topology.tables:
            logs = await reader.partitions(topology.changelog(table.name))
            begun, ended = await reader.begins(logs), await reader.ends(logs)
            changelogs[topology.changelog(table.name)] = sum(ended[tp] - begun[tp] for tp in logs)
        return TopologyReset(
            kind="anew",
            topology=topology.name,
            group=topology.group,
            tasks=tasks,
            offsets=offsets,
            changelogs=changelogs,
        )

    async def _refuse(self) -> None:
        await refuse_members(self._reader.admin, self._topologies)
        _refuse_to_part(self._app.topologies(), self._topologies)

    # ------------------------------------------------------------------ doing

    async def run(self) -> None:
        """Reset them.

        Raises:
            LifecycleError: workers are running, a source is not there, or they are joined with others.
            TaskClosed: a worker has started meanwhile, or a broker does not answer: run it again.
        """
        await self._refuse()
        for topology in self._topologies:
            await make_topics(self._app, self._reader, topology)
        for topology in self._topologies:
            for partition in range(await task_count(self._reader, topology)):
                async with fenced(self._app, self._reader, topology, partition) as (
                    producer,
                    before,
                ):
                    halted = msgspec.structs.replace(before or Marker(), resetting=True)
                    await producer.commit([marker_record(topology, partition, halted)], {})
        fault_point("reset.halted")
        for topology in self._topologies:
            for partition in range(await task_count(self._reader, topology)):
                async with fenced(self._app, self._reader, topology, partition) as (
                    producer,
                    before,
                ):
                    await self._empty(topology, partition, producer)
                    fault_point("reset.emptied")
                    await self._begin(topology, partition, producer, before or Marker())
            log.info("reset the topology %s", topology.name)

    async def _empty(self, topology: Topology, partition: int, producer: TaskProducer) -> None:
        """Write a tombstone for each key of the changelogs that may have a value."""
        logs = [
            TopicPartition(topology.changelog(table.name), partition) for table in topology.tables
        ]
        begins, ends = await self._reader.begins(logs), await self._reader.stable_ends(logs)
        spans = {tp: (begins[tp], ends[tp]) for tp in logs}
        # A key that is seen in two chunks gets two: that costs less than to remember all of them.
        chunk: dict[tuple[str, bytes], None] = {}
        async for tp, records in self._reader.records(spans):
            for record in records:
                if record.value is None:
                    chunk.pop((tp.topic, record.key), None)
                else:
                    chunk[tp.topic, record.key] = None
            if len(chunk) >= _CHUNK:
                await producer.commit(_tombstones(chunk, partition), {})
                chunk = {}
        if chunk:
            await producer.commit(_tombstones(chunk, partition), {})

    async def _begin(
        self, topology: Topology, partition: int, producer: TaskProducer, before: Marker
    ) -> None:
        sources = [TopicPartition(source.name, partition) for source in topology.sources]
        begins = await begins_of(self._reader, topology, sources, self._beginning)
        logs = {
            TopicPartition(topology.changelog(table.name), partition): table.name
            for table in topology.tables
        }
        begun = await self._reader.begins(list(logs))
        # What is cut off the changelogs has got no tombstones, and what a lost marker knew is unknown: no
        # copy of the state is gone on from.
        marker = Marker(
            app=topology.app_id,
            incarnation=new_incarnation(),
            replaces=before.incarnation,
            reset=True,
            tables={table: new_incarnation() for table in logs.values()},
            begins={table: begun[tp] for tp, table in logs.items() if begun[tp]},
            sequence=before.sequence + 1,
            sources={tp.topic: offset for tp, offset in begins.items()},
        )
        entry = reset_entry(
            topology.name,
            partition,
            before,
            marker.sources,
            why=self._why,
            worker="streamapp reset",
            guarantee=self._app.engine_settings.guarantee,
            at=round(time.time() * 1000),
        )
        await producer.commit(
            [marker_record(topology, partition, marker), entry_record(topology, entry)], begins
        )


def _tombstones(keys: Iterable[tuple[str, bytes]], partition: int) -> list[Outgoing]:
    return [Outgoing(topic, key, None, partition) for topic, key in keys]


def _refuse_to_part(declared: Sequence[Topology], chosen: Sequence[Topology]) -> None:
    """Refuse to reset one side of a `key_by`: what it has sent would be counted again, or be missing."""
    names = {topology.name for topology in chosen}
    joined, left = set(names), [t for t in declared if t.name not in names]
    carried = {name for topology in chosen for name in _between(topology)}
    while further := [t for t in left if carried & _between(t)]:
        joined |= {t.name for t in further}
        carried |= {name for t in further for name in _between(t)}
        left = [t for t in left if t not in further]
    if joined != names:
        raise LifecycleError(
            f"{', '.join(sorted(names))} and {', '.join(sorted(joined - names))} are joined by a key_by: what the one "
            "has sent to the other would be counted again, or be missing. Reset them together: "
            f"streamapp reset {' '.join(sorted(joined))}"
        )


def _between(topology: Topology) -> set[str]:
    """Return the repartition topics that a topology sends to or reads."""
    used = (*topology.key_bys, *topology.sources)
    return {topic.name for topic in used if isinstance(topic, KeyBy)}
