"""One life of a transactional producer, from fencing its predecessor to its first failure.

After any error the producer's state is not to be trusted: its owner discards the session and opens
another under the same transactional id, which settles what was in flight.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from streamapp.clients import discard
from streamapp.faults import fault_point
from streamapp.receivers.connection import Bootstrap, client_options

__all__ = ["Headers", "Outgoing", "ProducerSession"]

Headers = list[tuple[str, bytes]]

TRANSACTION_TIMEOUT = 10.0
"""Seconds after which the broker aborts for us: as long as a crash may hold up readers."""

OPEN_TIMEOUT = 30.0
DELIVERY_TIMEOUT = TRANSACTION_TIMEOUT
COMMIT_TIMEOUT = 15.0
ABORT_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Records for one partition, in columns; a missing column is empty for every record."""

    topic: str
    partition: int
    values: Sequence[bytes]
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None


class ProducerSession:
    """A producer of the stable `transactional_id`.

    Args:
        bootstrap: the broker's address.
        transactional_id: starting fences and aborts whoever else holds it.
        batch_bytes: the largest record batch, within what the topics take.
    """

    def __init__(self, bootstrap: Bootstrap, transactional_id: str, batch_bytes: int) -> None:
        self._producer = AIOKafkaProducer(
            **client_options(bootstrap),
            transactional_id=transactional_id,
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT * 1000),
            request_timeout_ms=int(TRANSACTION_TIMEOUT * 1000),
            max_batch_size=batch_bytes,
        )
        self._in_transaction = False

    async def start(self) -> None:
        """Connect and fence.

        Raises:
            TimeoutError: the transaction coordinator did not answer in time.
            aiokafka.errors.KafkaError: the broker failed.
        """
        async with asyncio.timeout(OPEN_TIMEOUT):
            await self._producer.start()

    async def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""
        return len(await self._producer.partitions_for(topic))

    async def transact(self, outgoing: Iterable[Outgoing], timestamp_ms: int) -> None:
        """Publish in one transaction, all or nothing.

        Every delivery is checked before the commit: aiokafka would commit without a batch that the
        broker has refused. On an error the outcome is unknown until the next session has fenced
        this one and read what was committed.

        Raises:
            TimeoutError: delivery or commit took too long.
            aiokafka.errors.KafkaError: the broker failed or refused.
            AssertionError: aiokafka's, where its producer is in a state that forbids the step.
        """
        async with asyncio.timeout(DELIVERY_TIMEOUT):
            await self._producer.begin_transaction()
            self._in_transaction = True
            deliveries: list[asyncio.Future[object]] = []
            for records in outgoing:
                await self._send(records, timestamp_ms, deliveries)
            fault_point("receiver.before-delivery")
            results = await asyncio.gather(*deliveries, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        fault_point("receiver.before-commit")
        async with asyncio.timeout(COMMIT_TIMEOUT):
            await self._producer.commit_transaction()
        self._in_transaction = False
        fault_point("receiver.after-commit")

    async def _send(
        self, records: Outgoing, timestamp_ms: int, deliveries: list[asyncio.Future[object]]
    ) -> None:
        keys = records.keys or [None] * len(records.values)
        headers = records.headers or [[]] * len(records.values)
        batch = self._producer.create_batch()
        for key, value, header in zip(keys, records.values, headers, strict=True):
            if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=header) is None:
                deliveries.append(await self._send_batch(batch, records))
                batch = self._producer.create_batch()
                batch.append(timestamp=timestamp_ms, key=key, value=value, headers=header)
        if batch.record_count():
            deliveries.append(await self._send_batch(batch, records))

    async def _send_batch(self, batch: BatchBuilder, to: Outgoing) -> asyncio.Future[object]:
        delivery: asyncio.Future[object] = await self._producer.send_batch(
            batch, to.topic, partition=to.partition
        )
        delivery.add_done_callback(_retrieve)
        return delivery

    async def close(self) -> None:
        """End well: nothing is in flight, or it is aborted so that no reader waits for it."""
        if self._in_transaction:
            await self.discard()
        else:
            await self._producer.stop()

    async def discard(self) -> None:
        """End whatever happens: abort if that is still possible, then let go of the producer.

        `stop()` would wait for a commit in flight, perhaps for ever.
        """
        with contextlib.suppress(KafkaError, TimeoutError, AssertionError, OSError):
            async with asyncio.timeout(ABORT_TIMEOUT):
                if self._in_transaction:
                    await self._producer.abort_transaction()
        self._in_transaction = False
        producer = self._producer
        await discard(producer)
        _retrieve(producer._txn_manager.wait_for_transaction_end())
        for batches in producer._message_accumulator._batches.values():
            for batch in batches:
                _retrieve(batch._drain_waiter)


def _retrieve(future: asyncio.Future[object] | None) -> None:
    """Look at a failure, so that asyncio does not report it as overlooked."""
    if future is not None and future.done() and not future.cancelled():
        future.exception()
