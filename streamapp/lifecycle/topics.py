"""The topics of a topology that is not running: how many tasks it has, and what is made or grown for them."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from aiokafka.admin import NewPartitions
from aiokafka.errors import NoError, UnknownTopicOrPartitionError, for_code

from streamapp.engine.app import App
from streamapp.engine.provision import provision
from streamapp.engine.topology import Topology
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle.errors import LifecycleError

__all__ = ["delete_topic", "grow_topic", "grow_topics", "make_topics", "task_count"]

_VISIBLE_WITHIN: Final = 30.0


async def task_count(reader: LedgerReader, topology: Topology) -> int:
    """Return the number of tasks: the partitions of its sources.

    Raises:
        LifecycleError: a source is not there.
    """
    counts = {source.name: len(await reader.partitions(source.name)) for source in topology.sources}
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise LifecycleError(
            f"the topology {topology.name} has not run yet: its source {', '.join(missing)} is not there"
        )
    return max(counts.values())


async def make_topics(app: App, reader: LedgerReader, topology: Topology) -> None:
    """Make the topics that a topology lacks, and let those of its state follow sources that grew.

    Raises:
        TopicError: they do not fit in another way.
    """
    await grow_topics(reader, topology)
    options = app.kafka_options()
    await provision(
        reader.admin,
        [topology],
        app.conf.topic_partitions,
        app.dead_letter_topic,
        app.engine_settings,
        options["bootstrap_servers"],
    )


async def grow_topics(reader: LedgerReader, topology: Topology) -> None:
    """Give changelogs, markers, intents and ledger as many partitions as the sources have."""
    tasks = await task_count(reader, topology)
    for name in (
        topology.checkpoint_topic,
        topology.intents_topic,
        *(topology.changelog(table.name) for table in topology.tables),
        topology.ledger_topic,
    ):
        await grow_topic(reader, name, tasks)


async def grow_topic(reader: LedgerReader, name: str, partitions: int) -> None:
    """Give a topic so many partitions, if it is there and has fewer.

    Raises:
        LifecycleError: they do not show.
    """
    if not 0 < len(await reader.partitions(name)) < partitions:
        return
    await reader.admin.create_partitions({name: NewPartitions(partitions)})
    deadline = time.monotonic() + _VISIBLE_WITHIN
    while len(await reader.partitions(name)) < partitions:
        if time.monotonic() > deadline:
            raise LifecycleError(
                f"the topic {name} was given {partitions} partitions, and does not show them: run this again"
            )
        await asyncio.sleep(0.1)


async def delete_topic(reader: LedgerReader, name: str) -> None:
    """Delete a topic, if it is there.

    Raises:
        LifecycleError: the broker refuses it.
    """
    response = await reader.admin.delete_topics([name])
    for _, code in response.topic_error_codes:
        error = for_code(code)
        if error not in (NoError, UnknownTopicOrPartitionError):
            raise LifecycleError(
                f"all is done but for the topic {name}, which is not needed any more: the broker does not delete it "
                f"({error.__name__}): see that this may be done, and run this again"
            )
