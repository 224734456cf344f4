"""Setting a group's offsets to those of the last checkpoint: the markers say what is true.

The state, the markers and the ledger stay as they are. Somebody has reset the group, and takes it back.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import TopicPartition

from streamapp.engine.app import App
from streamapp.engine.marker import Marker
from streamapp.engine.topology import Topology
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle.fence import fenced
from streamapp.lifecycle.membership import refuse_members
from streamapp.lifecycle.reset import TopologyReset

__all__ = ["ResetToCheckpoint"]


class ResetToCheckpoint:
    """Lets topologies go on from their checkpoints.

    Arguments:
        reader: connected.
    """

    def __init__(self, app: App, reader: LedgerReader, topologies: Sequence[Topology]) -> None:
        self._app = app
        self._reader = reader
        self._topologies = topologies

    async def plan(self) -> list[TopologyReset]:
        """Return what would be done; nothing is written.

        Raises:
            LifecycleError: workers are running.
        """
        await refuse_members(self._reader.admin, self._topologies)
        plans = []
        for topology in self._topologies:
            standing = await self._reader.standing(topology)
            plans.append(
                TopologyReset(
                    kind="to-checkpoint",
                    topology=topology.name,
                    group=topology.group,
                    tasks=len(standing.markers),
                    offsets={
                        f"{tp.topic}:{tp.partition}": (standing.committed.get(tp), offset)
                        for partition, marker in sorted(standing.markers.items())
                        for tp, offset in _offsets(topology, partition, marker).items()
                    },
                    changelogs={},
                )
            )
        return plans

    async def run(self) -> None:
        """Set the offsets.

        Raises:
            LifecycleError: workers are running.
            TaskClosed: a worker has started meanwhile, or a broker does not answer: run it again.
        """
        await refuse_members(self._reader.admin, self._topologies)
        for topology in self._topologies:
            for tp in await self._reader.partitions(topology.checkpoint_topic):
                async with fenced(self._app, self._reader, topology, tp.partition) as held:
                    producer, marker = held
                    if marker is not None:
                        await producer.commit([], _offsets(topology, tp.partition, marker))


def _offsets(topology: Topology, partition: int, marker: Marker) -> dict[TopicPartition, int]:
    names = {source.name for source in topology.sources}
    return {
        TopicPartition(topic, partition): offset
        for topic, offset in marker.sources.items()
        if topic in names
    }
