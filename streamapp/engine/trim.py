"""Trimming repartition topics: they keep everything until its reader has committed it.

Kafka Streams does the same (KIP-204): a record that no task will ask for again is deleted by
offset, since age says nothing about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError

from streamapp.engine.key_by import KeyBy

if TYPE_CHECKING:
    from streamapp.engine.group import Group

__all__ = ["Trimmer"]

log = logging.getLogger(__name__)


class Trimmer:
    """Deletes what all readers of a repartition topic have committed, for the partitions read here.

    Arguments:
        groups: the topologies of this worker.
        interval: seconds between two rounds.
    """

    def __init__(
        self, groups: Sequence[Group], kafka_options: Mapping[str, Any], interval: float
    ) -> None:
        self._options = kafka_options
        self._interval = interval
        self._trimmed: dict[TopicPartition, int] = {}
        self._readers: dict[str, list[Group]] = {}
        for group in groups:
            for source in group.topology.sources:
                if isinstance(source, KeyBy):
                    self._readers.setdefault(source.name, []).append(group)

    async def run(self) -> None:
        """Trim until cancelled; a round that fails is tried again with the next one."""
        while self._readers:
            await asyncio.sleep(self._interval)
            try:
                await self.trim()
            except (KafkaError, OSError) as error:
                log.warning("repartition topics were not trimmed: %s", error)

    async def trim(self) -> None:
        """Delete what is committed.

        Raises:
            KafkaError: the broker refused, or does not answer.
        """
        offsets = {}
        for topic, groups in self._readers.items():
            for partition in list(groups[0].runners):  # a rebalance may come in between
                tp = TopicPartition(topic, partition)
                committed = await self._committed(groups, tp)
                if committed > self._trimmed.get(tp, 0):
                    offsets[tp] = committed
        if not offsets:
            return
        admin = AIOKafkaAdminClient(**self._options)
        await admin.start()
        try:
            await admin.delete_records(
                {tp: RecordsToDelete(offset) for tp, offset in offsets.items()}
            )
        finally:
            await admin.close()
        self._trimmed.update(offsets)

    @staticmethod
    async def _committed(groups: Sequence[Group], tp: TopicPartition) -> int:
        """Return up to where every reader has committed a partition."""
        found = []
        for group in groups:
            runner = group.runners.get(tp.partition)
            if runner is not None and runner.task is not None:
                found.append(runner.task.marker.sources.get(tp.topic, 0))
            else:
                assert group.consumer is not None
                found.append(await group.consumer.committed(tp) or 0)
        return min(found)
