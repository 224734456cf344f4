"""The few private names of aiokafka that the engine leans on, in one place (0.14, pinned below 0.15).

Each stands for something that has no public form: the group's generation, a heartbeat on demand,
leaving at once, the size of one record batch.
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

__all__ = ["fail_deliveries", "generation", "heartbeat", "leave_group", "new_batch"]


def generation(consumer: AIOKafkaConsumer) -> int:
    """Return the generation of the group that the consumer is in; below 1 it is in none."""
    coordinator: Any = consumer._coordinator
    return int(coordinator.generation)


async def heartbeat(consumer: AIOKafkaConsumer, expected: int) -> bool:
    """Send a heartbeat; return whether the member is still in the generation it was assigned in.

    A rebalance in progress answers a heartbeat with success too, so the wish to rejoin counts.
    """
    coordinator: Any = consumer._coordinator
    if coordinator.generation != expected or coordinator._rejoin_needed_fut.done():
        return False
    succeeded = await coordinator._do_heartbeat()
    return bool(
        succeeded
        and coordinator.generation == expected
        and not coordinator._rejoin_needed_fut.done()
    )


async def leave_group(consumer: AIOKafkaConsumer) -> None:
    """Tell the coordinator that this member goes, without waiting for a rebalance in flight.

    A static member says nothing: it is expected back (KIP-345).
    """
    await consumer._coordinator._maybe_leave_group()


def new_batch(producer: AIOKafkaProducer, size: int) -> Any:
    """Return an empty record batch that takes so many bytes; aiokafka has one size for all topics."""
    producer._message_accumulator._batch_size = size
    return producer.create_batch()


def fail_deliveries(producer: AIOKafkaProducer, error: Exception) -> None:
    """Fail what a producer whose sender has ended will not deliver: nobody else does."""
    producer._message_accumulator.fail_all(error)
