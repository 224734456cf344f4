"""A topology whose source got more partitions: it gets as many tasks, where it keeps no tables.

State is where its records were: with more partitions, keys go elsewhere than their state is. Which
records a key of a table came from is known to the agent alone, so tables are not moved.

The crash scenario: the ledger grows last, and workers refuse to start while it is short. By then each new
task has a marker that begins where its partition begins, also under `offset_reset="latest"`.
"""

from __future__ import annotations

import msgspec
from aiokafka import TopicPartition

from streamapp.engine.app import App
from streamapp.engine.marker import Marker, new_incarnation
from streamapp.engine.topology import Topology
from streamapp.faults import fault_point
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle.errors import LifecycleError
from streamapp.lifecycle.fence import fenced, marker_record
from streamapp.lifecycle.membership import refuse_members
from streamapp.lifecycle.topics import grow_topic, grow_topics, task_count

__all__ = ["Growth", "TopologyGrowth"]


class TopologyGrowth(msgspec.Struct, kw_only=True):
    """From how many tasks to how many a topology grows."""

    topology: str
    tasks: int
    becoming: int


class Growth:
    """Lets a topology follow its sources.

    Arguments:
        reader: connected.
    """

    def __init__(self, app: App, reader: LedgerReader, topology: Topology) -> None:
        self._app = app
        self._reader = reader
        self._topology = topology

    async def plan(self) -> TopologyGrowth:
        """Return what would be done; nothing is written.

        Raises:
            LifecycleError: workers are running, it keeps tables, or it has never run.
        """
        topology = self._topology
        await refuse_members(self._reader.admin, [topology])
        becoming = await task_count(self._reader, topology)
        tasks = len(await self._reader.partitions(topology.ledger_topic))
        if not tasks:
            raise LifecycleError(
                f"the topology {topology.name} has not run yet: it takes its sources as they are"
            )
        if topology.tables and becoming > tasks:
            raise LifecycleError(
                f"the topology {topology.name} keeps the tables {', '.join(table.name for table in topology.tables)}, "
                f"and their state is where the records of its {tasks} partitions were: with {becoming}, keys go elsewhere. "
                f"Begin anew, and fill them from the source again: streamapp reset {topology.name}. For the next time, let "
                "an agent without tables read the source and send through a key_by, whose topic keeps its number"
            )
        return TopologyGrowth(topology=topology.name, tasks=tasks, becoming=becoming)

    async def run(self) -> None:
        """Let it follow.

        Raises:
            LifecycleError: as `plan`.
            TaskClosed: a broker does not answer: run it again.
        """
        plan = await self.plan()
        reader, topology = self._reader, self._topology
        await grow_topic(reader, topology.checkpoint_topic, plan.becoming)
        for partition in range(plan.tasks, plan.becoming):
            sources = [TopicPartition(source.name, partition) for source in topology.sources]
            begins = await reader.begins(sources)
            async with fenced(self._app, reader, topology, partition) as (producer, marker):
                if marker is None:
                    first = Marker(
                        app=topology.app_id,
                        incarnation=new_incarnation(),
                        sources={tp.topic: offset for tp, offset in begins.items()},
                    )
                    await producer.commit([marker_record(topology, partition, first)], {})
            fault_point("growth.marked")
        await grow_topics(reader, topology)
