"""The transactional producer of a task, and how records are handed to aiokafka.

Records go out through `create_batch` and `send_batch`, a fourth of the cost of `send`; every
delivery is awaited and checked before the commit, because aiokafka fails the future of a refused
batch and commits all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerClosed
from aiokafka.partitioner import DefaultPartitioner

from streamapp.clients import discard, transaction_error
from streamapp.engine import seams
from streamapp.engine.cancellation import end
from streamapp.engine.outbox import Outgoing, no_partition
from streamapp.engine.settings import EngineSettings
from streamapp.errors import RecordError, StoreError, TaskClosed, TransactionTimedOut
from streamapp.faults import fault_point

__all__ = ["OutputProducer", "TaskProducer"]

log = logging.getLogger(__name__)

_partition_of = DefaultPartitioner()
#: How large a record batch may grow, in bytes, where the topic does not take less.
_BATCH_BYTES = 900_000
#: How long a producer may take to start, and after how long it is told that it waits, in seconds: a
#: transaction that a dead worker has left open ends before.
_OPEN_WITHIN, _SAY_AFTER = 60.0, 15.0


class _Batches:
    """Collects records a partition and sends them as whole record batches.

    Arguments:
        limits: the largest record batch that a topic takes, in bytes.
    """

    def __init__(self, producer: AIOKafkaProducer, limits: Mapping[str, int]) -> None:
        self._producer = producer
        self._limits = limits
        self._partitions: dict[str, list[int]] = {}
        self._builders: dict[TopicPartition, Any] = {}
        self._futures: list[tuple[TopicPartition, int, asyncio.Future[Any]]] = []
        self._now = round(time.time() * 1000)

    async def send(self, records: Iterable[Outgoing], keyless: int) -> dict[TopicPartition, int]:
        """Send records; return where each partition ends after them, as far as the brokers said it.

        Arguments:
            keyless: decides the partition of records without a key: it is the same for all of a
                call, so that they travel in one batch.

        Raises:
            TaskClosed: a delivery failed.
            RecordError: a partition that is not there.
        """
        target: TopicPartition | None = None
        builder: Any = None
        for record in records:
            topic, key, value, partition, timestamp, headers = record
            # Changelog records come one after the other for the same partition.
            if target is None or partition != target.partition or topic != target.topic:
                target = TopicPartition(topic, await self._partition(record, keyless))
                builder = self._builders.get(target)
                if builder is None:
                    builder = self._builders[target] = self._new_batch(target.topic)
            while (
                builder.append(
                    timestamp=self._now if timestamp is None else timestamp,
                    key=key,
                    value=value,
                    headers=list(headers) if headers else [],
                )
                is None
            ):
                await self._submit(target, builder)
                builder = self._builders[target] = self._new_batch(target.topic)
        for target, builder in self._builders.items():
            await self._submit(target, builder)
        return await self._delivered()

    def _new_batch(self, topic: str) -> Any:
        size = min(_BATCH_BYTES, self._limits.get(topic, _BATCH_BYTES))
        return seams.new_batch(self._producer, size)

    async def _partition(self, record: Outgoing, keyless: int) -> int:
        partitions = self._partitions.get(record.topic)
        if partitions is None:
            partitions = sorted(await self._producer.partitions_for(record.topic))
            self._partitions[record.topic] = partitions
        if record.partition is not None:
            if record.partition not in partitions:
                raise no_partition(record.topic, record.partition, len(partitions))
            return record.partition
        if record.key is None:
            return partitions[keyless % len(partitions)]
        chosen: int = _partition_of(record.key, partitions, partitions)
        return chosen

    async def _submit(self, target: TopicPartition, builder: Any) -> None:
        builder.close()
        count = builder.record_count()
        future = await self._producer.send_batch(builder, target.topic, partition=target.partition)
        self._futures.append((target, count, future))

    async def _delivered(self) -> dict[TopicPartition, int]:
        if self._futures:
            await asyncio.wait([future for _, _, future in self._futures])
        # Every future's exception is looked at, so that none is reported as never retrieved.
        errors = [(t, e) for t, _, future in self._futures if (e := future.exception()) is not None]
        if errors:
            target, error = errors[0]
            raise TaskClosed(
                f"a batch for {target.topic}[{target.partition}] was not delivered: {type(error).__name__}: {error}"
            ) from error
        ends: dict[TopicPartition, int] = {}
        for target, count, future in self._futures:
            # A batch that was sent again after its answer was lost has no offset: it is there already.
            if (offset := future.result().offset) >= 0:
                ends[target] = max(ends.get(target, 0), offset + count)
        return ends


class TaskProducer:
    """A task's producer under its stable transactional id.

    `open` fences whoever held the id and aborts what it left open. After any error the producer is
    good for nothing any more: every method raises `TaskClosed` then, and the caller opens anew.
    """

    def __init__(
        self,
        kafka_options: Mapping[str, Any],
        transactional_id: str,
        group: str,
        settings: EngineSettings,
        limits: Mapping[str, int],
    ) -> None:
        self._options = kafka_options
        self._limits = limits
        self._transactional_id = transactional_id
        self._group = group
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None

    @property
    def is_open(self) -> bool:
        """Whether a transaction can be tried."""
        return self._producer is not None

    async def open(self) -> None:
        """Start the producer: whoever held the transactional id is fenced after this.

        Raises:
            KafkaError: a broker refuses it.
            TaskClosed: no coordinator gives it the id within a minute.
        """
        await self.close()
        producer = AIOKafkaProducer(
            **self._options,
            transactional_id=self._transactional_id,
            transaction_timeout_ms=round(self._settings.transaction_timeout * 1000),
            max_batch_size=_BATCH_BYTES,
            max_request_size=64 << 20,
            compression_type=self._settings.compression,
        )
        waits = asyncio.get_running_loop().call_later(
            _SAY_AFTER,
            log.warning,
            "%s waits for a coordinator to give out its transactional id",
            self._transactional_id,
        )
        try:
            # aiokafka asks for as long as the coordinator tells it to.
            async with asyncio.timeout(_OPEN_WITHIN):
                await producer.start()
        except TimeoutError as error:
            await discard(producer)
            raise TaskClosed(
                f"no coordinator has given out the transactional id {self._transactional_id} for {_OPEN_WITHIN:.0f} s: "
                "it is away, or a transaction of this id does not end (kafka-transactions.sh describe)"
            ) from error
        except BaseException:
            await discard(producer)
            raise
        finally:
            waits.cancel()
        self._producer = producer

    async def commit(
        self,
        records: Iterable[Outgoing],
        offsets: Mapping[TopicPartition, int],
        keyless: int = 0,
        what: str = "checkpoint",
        check: Callable[[Mapping[TopicPartition, int]], None] | None = None,
    ) -> dict[TopicPartition, int]:
        """Publish records and source offsets in one transaction; return where the partitions end.

        A partition is left out whose end is not known: an answer was lost, and the batch sent twice.

        Arguments:
            keyless: decides the partition of records without a key.
            what: is committed: its fault points are named after it.
            check: sees where the partitions end before they are committed; what it raises aborts.

        Raises:
            TaskClosed: it is not known to be committed: fenced, refused, or of unknown outcome.
            TransactionTimedOut: the same, after the time that the broker gives a transaction.
            RecordError: nothing was committed, and never will be: a partition is not there.
            StoreError: what `check` raises; nothing was committed.
        """
        producer = self._producer
        if producer is None:
            raise TaskClosed(f"the producer {self._transactional_id} is not open")
        deadline = self._settings.commit_deadline
        began = time.monotonic()
        try:
            await producer.begin_transaction()
            async with asyncio.timeout(deadline):
                ends = await _Batches(producer, self._limits).send(records, keyless)
                if check is not None:
                    check(ends)
                if offsets:
                    await producer.send_offsets_to_transaction(dict(offsets), self._group)
            fault_point(f"{what}.before-commit")
            async with asyncio.timeout(deadline):
                await producer.commit_transaction()
        except BaseException as error:
            self._producer = None
            await asyncio.shield(discard(producer))
            if not isinstance(error, Exception) or isinstance(error, (RecordError, StoreError)):
                raise
            # What follows a refusal hides it: deliveries without their partition in the transaction fail too.
            cause = transaction_error(producer) or error
            message = f"{self._transactional_id}: {_described(cause)}"
            took, timeout = time.monotonic() - began, self._settings.transaction_timeout
            if took >= timeout:
                raise TransactionTimedOut(
                    f"{message}; the transaction took {took:.1f} s, and transaction_timeout is {timeout:g} s: where this "
                    "stays, raise it, or lower max_records of the agents"
                ) from cause
            raise TaskClosed(message) from cause
        fault_point(f"{what}.after-commit")
        return ends

    async def close(self) -> None:
        """Let go of the producer; between transactions this leaves nothing open."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await discard(producer)


class OutputProducer:
    """The producer for output that leaves outside the transactions (`at_least_once`).

    All tasks of a topology share it. A failure ends it for all of them: a refused batch leaves a gap
    in its sequence, after which the broker takes nothing more from it. The next `send` starts another.

    Arguments:
        allowed: asked before each request: nothing fences what is sent outside of a transaction.
    """

    def __init__(
        self,
        kafka_options: Mapping[str, Any],
        settings: EngineSettings,
        limits: Mapping[str, int],
        allowed: Callable[[], Awaitable[bool]],
    ) -> None:
        self._allowed = allowed
        self._options = kafka_options
        self._settings = settings
        self._limits = limits
        self._started: asyncio.Task[AIOKafkaProducer] | None = None

    async def send(self, records: Iterable[Outgoing], keyless: int) -> None:
        """Send records and wait until they are delivered.

        Raises:
            TaskClosed: one of them was not.
            RecordError: a partition is not there.
        """
        if self._started is None:
            self._started = asyncio.get_running_loop().create_task(self._start())
        started = self._started
        try:
            producer = await asyncio.shield(started)
            await _Batches(producer, self._limits).send(records, keyless)
        except RecordError:
            raise
        except Exception as error:
            if self._started is started:
                await self.close()
            raise TaskClosed(f"output was not delivered: {_described(error)}") from error

    async def _start(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._options,
            enable_idempotence=True,
            max_batch_size=_BATCH_BYTES,
            max_request_size=64 << 20,
            compression_type=self._settings.compression,
        )
        try:
            await producer.start()
        except BaseException:
            await discard(producer)
            raise
        seams.guard(producer, self._allowed)
        return producer

    async def close(self) -> None:
        """Let go of the producer; what others are sending with it fails."""
        started, self._started = self._started, None
        if started is None:
            return
        await end(started)
        if not started.cancelled() and started.exception() is None:
            producer = started.result()
            await discard(producer)
            seams.fail_deliveries(producer, ProducerClosed())


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, TaskClosed) else f"{type(error).__name__}: {error}"
