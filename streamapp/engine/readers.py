"""The consumers that restores read with: each serves one restore at a time, and stays for the next.

A consumer costs a connection to each broker and a look at its topics before it reads a record. With
many tasks to open, a few consumers go from one to the next: their topics are the same ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.engine import seams
from streamapp.engine.fetching import WholeBatches
from streamapp.errors import TaskClosed

__all__ = ["Reader", "Readers"]

log = logging.getLogger(__name__)

#: How long a reader waits for what has to come before another one is tried, in seconds.
WAIT_MOST = 60.0
#: After how many seconds it is told again, as a trouble; a transaction_timeout is 10.
_SAY_AGAIN = 15.0
_POLL_MS = 50
_FETCH_BYTES = 4 << 20


class Reader:
    """A consumer of committed records at partitions of one's own choice."""

    def __init__(self, kafka_options: Mapping[str, Any]) -> None:
        self._consumer = AIOKafkaConsumer(
            **kafka_options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        #: The positions at the last fetch that brought something, and when that was.
        self._seen: dict[TopicPartition, int] = {}
        self._seen_at = 0.0

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()
        self._whole_batches = WholeBatches(self._consumer)

    async def stop(self) -> None:
        """Let go of the connections."""
        await seams.stop(self._consumer)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Take partitions in place of those before; nothing is read before `read`."""
        self._consumer.assign(list(partitions))
        self.rest()

    def rest(self) -> None:
        """Read no more of anything."""
        self._consumer.pause(*self._consumer.assignment())

    def read(self, tp: TopicPartition, offset: int) -> None:
        """Read a partition from an offset on."""
        self._consumer.seek(tp, offset)
        self._consumer.resume(tp)
        self._seen = {}

    async def fetch(
        self, *partitions: TopicPartition
    ) -> tuple[dict[TopicPartition, Any], dict[TopicPartition, int]]:
        """Return records that have come in, and up to where each partition is read with them.

        It is for partitions that have something to bring. Control records carry no data and move the
        position all the same.

        Raises:
            KafkaError: nothing will come in any more; another reader may do better.
            TaskClosed: nothing has come for a minute.
        """
        seams.check_reading(self._consumer)
        fetched = await self._whole_batches.getmany(*partitions, timeout_ms=_POLL_MS)
        positions = {tp: await self._consumer.position(tp) for tp in partitions}
        now = asyncio.get_running_loop().time()
        if fetched or positions != self._seen:
            self._seen, self._seen_at = positions, now
        elif now - self._seen_at > WAIT_MOST:
            raise TaskClosed(f"nothing was read of {_shown(positions)} for {WAIT_MOST:.0f} s")
        return fetched, positions

    async def begins(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where partitions begin."""
        begins: dict[TopicPartition, int] = await self._consumer.beginning_offsets(partitions)
        return begins

    async def ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where what is committed of partitions ends."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        return ends

    async def stable_ends(
        self, partitions: list[TopicPartition], name: str, within: float | None = None
    ) -> dict[TopicPartition, int]:
        """Return the ends, once all transactions have ended that are open now.

        Arguments:
            name: who waits, for the log.
            within: for how long to wait, in seconds; a minute, if it is not given.

        Raises:
            TaskClosed: one is open for longer.
        """
        within = WAIT_MOST if within is None else within
        now = asyncio.get_running_loop().time
        written = await seams.high_watermarks(self._consumer, partitions)
        began, due, level = now(), 0.0, logging.INFO
        while True:
            stable = await self.ends(partitions)
            behind = {tp: written[tp] for tp in partitions if stable[tp] < written[tp]}
            if not behind:
                return stable
            waited = now() - began
            if waited >= due:
                log.log(level, "%s waits for a transaction to end below %s", name, _shown(behind))
                # That of a worker that has died has ended by then.
                due, level = due + _SAY_AGAIN, logging.WARNING
            if waited > within:
                raise TaskClosed(
                    f"a transaction has been open below {_shown(behind)} for {within:.0f} s, and what is behind it "
                    "cannot be read: see which producer holds it (kafka-transactions.sh find-hanging)"
                )
            await asyncio.sleep(_POLL_MS / 1000)


def _shown(offsets: Mapping[TopicPartition, int]) -> str:
    return ", ".join(f"{tp.topic}[{tp.partition}] at {at}" for tp, at in offsets.items())


class Readers:
    """The readers of one topology: as many as are in use, and one more for whoever comes next."""

    def __init__(self, kafka_options: Mapping[str, Any]) -> None:
        self._options = kafka_options
        self._idle: list[Reader] = []
        self._used = 0
        self._stopping: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Reader]:
        """Lend a reader, started if there is none at rest."""
        self._used += 1
        reader = None
        try:
            if self._idle:
                reader = self._idle.pop()
            else:
                reader = Reader(self._options)
                await reader.start()
            yield reader
            reader.rest()
            self._idle.append(reader)
            reader = None
        finally:
            self._used -= 1
            surplus = [] if reader is None else [reader]
            if self._used == 0:
                surplus += self._idle[1:]
                self._idle = self._idle[:1]
            self._stop(surplus)

    def _stop(self, readers: Iterable[Reader]) -> None:
        """Let go of readers; whoever had one may be cancelled meanwhile, and `close` waits for all."""
        for reader in readers:
            stopping = asyncio.get_running_loop().create_task(reader.stop(), name="stop a reader")
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Let go of all that are not in use."""
        idle, self._idle = self._idle, []
        self._stop(idle)
        await asyncio.gather(*self._stopping)
