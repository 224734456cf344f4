"""Reading the demo's topics into a tally, as anybody else could: a consumer, read committed."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streamapp.demo.errors import DemoError
from streamapp.demo.tally import Tally

__all__ = ["Observer"]

_POLL_MS = 100


class Observer:
    """Reads the tally's topics from their beginning; a context, within which it reads.

    async with Observer(bootstrap, tally) as observer:
        await observer.find_topics()
    """

    def __init__(self, bootstrap: str, tally: Tally) -> None:
        self._tally = tally
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_POLL_MS,
        )
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._partitions: list[TopicPartition] = []
        self._reading: asyncio.Task[None] | None = None
        self._turned = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self._consumer.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._consumer.stop()
        await self._admin.close()

    async def find_topics(self) -> bool:
        """Begin to read if all the topics are there; return whether they are.

        Raises:
            DemoError: their beginning is gone.
        """
        topics = await self._admin.describe_topics(sorted(self._tally.topics()))
        if any(topic["error_code"] for topic in topics):
            return False
        self._partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in topics
            for partition in topic["partitions"]
        ]
        whole = self._tally.whole_topics()
        begins = await self._consumer.beginning_offsets(self._partitions)
        if any(begin for partition, begin in begins.items() if partition.topic in whole):
            raise DemoError(
                "this demo is older than its topics keep records, which is a week, so a part of what"
                " it found is gone: begin anew with --fresh"
            )
        self._consumer.assign(self._partitions)
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="demo: observer")
        return True

    def check(self) -> None:
        """Raise what has ended the reading, if something has."""
        if self._reading is not None and self._reading.done():
            self._reading.result()

    async def catch_up(self) -> None:
        """Return when everything that is committed by now is in the tally."""
        if self._reading is None:
            return
        ends = await self._consumer.end_offsets(self._partitions)
        async with self._turned:
            while not self._reading.done() and not await self._has_reached(ends):
                await self._turned.wait()
        self.check()

    async def _has_reached(self, ends: dict[TopicPartition, int]) -> bool:
        for partition, end in ends.items():
            if await self._consumer.position(partition) < end:
                return False
        return True

    async def _read(self) -> None:
        try:
            while True:
                fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
                for partition, records in fetched.items():
                    for record in records:
                        self._tally.take(
                            partition.topic,
                            partition.partition,
                            record.offset,
                            record.key,
                            record.value,
                        )
                async with self._turned:
                    self._turned.notify_all()
        finally:
            async with self._turned:
                self._turned.notify_all()
