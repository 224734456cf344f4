"""A task behind a fence: nobody else can commit for it from then on, and its last marker is the last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from streamapp.engine.app import App
from streamapp.engine.marker import MARKER_KEY, LedgerEntry, Marker, encode
from streamapp.engine.outbox import Outgoing
from streamapp.engine.producer import TaskProducer
from streamapp.engine.topology import Topology
from streamapp.ledger.reading import LedgerReader

__all__ = ["entry_record", "fenced", "marker_record"]


@asynccontextmanager
async def fenced(
    app: App, reader: LedgerReader, topology: Topology, partition: int
) -> AsyncIterator[tuple[TaskProducer, Marker | None]]:
    """Take a task's transactional id; give a producer under it, and the task's last marker."""
    producer = TaskProducer(
        app.kafka_options(),
        topology.transactional_id(partition),
        topology.group,
        app.engine_settings,
        {},
    )
    await producer.open()
    try:
        marks = TopicPartition(topology.checkpoint_topic, partition)
        await reader.stable_ends([marks])
        found = await reader.markers([marks])
        yield producer, found.get(partition)
    finally:
        await producer.close()


def marker_record(topology: Topology, partition: int, marker: Marker) -> Outgoing:
    """Return a marker as the checkpoint topic takes it."""
    return Outgoing(topology.checkpoint_topic, MARKER_KEY, encode(marker), partition)


def entry_record(topology: Topology, entry: LedgerEntry) -> Outgoing:
    """Return an entry as the ledger takes it."""
    return Outgoing(topology.ledger_topic, None, encode(entry), entry.partition)
