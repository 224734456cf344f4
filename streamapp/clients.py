"""What every client of aiokafka's is given, and how one is let go of that may have got stuck."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from aiokafka import AIOKafkaProducer

__all__ = ["COMMON", "discard", "let_go", "transaction_error"]

log = logging.getLogger(__name__)

COMMON: Final[dict[str, Any]] = {
    # aiokafka does not ask again when a request for metadata has failed, and not at all while a
    # periodic one is under way: what it lacks then, it lacks for this long (5 minutes by default).
    "metadata_max_age_ms": 30_000
}
"""Options of consumers, producers and admin clients."""

#: How long a connection may take to be gone that is not closed in good order, in seconds.
_CLOSING = 1.0
#: After how long a task that sends, and goes on in spite of it, is cancelled again, in seconds.
_CANCEL_AGAIN = 0.1


async def discard(producer: AIOKafkaProducer) -> None:
    """Drop a producer without a flush, an abort or a wait for anything that is in flight.

    aiokafka's own `stop` hangs with a commit in flight and flushes what must not be sent.
    """
    producer._closed = True
    transaction_error(producer)  # it was told, or is of no interest
    while sending := _sending(producer):
        for task in sending:
            task.cancel()
        await asyncio.wait(sending, timeout=_CANCEL_AGAIN)
    await let_go(producer.client)


async def let_go(client: Any) -> None:
    """Close a client, and not wait until its connections have written what they still have to.

    A host that is gone, or stands still, takes nothing more: that would be for many minutes.
    """
    for connection in client._conns.values():
        if connection._writer is not None:
            connection._writer.transport.abort()
    try:
        async with asyncio.timeout(_CLOSING):
            await client.close()
    except TimeoutError:
        return  # one that aiokafka itself has closed, and whose host says nothing
    except Exception as error:  # what its background work has ended in, and nobody needs any more
        log.warning("closing a Kafka client: %s: %s", type(error).__name__, error)


def transaction_error(producer: AIOKafkaProducer) -> BaseException | None:
    """Return what the broker has refused the transaction at hand with, if it has.

    Python complains of errors of transactions that nobody has asked for.
    """
    manager: Any = producer._txn_manager
    waiter: Any = None if manager is None else manager._transaction_waiter
    if waiter is None or not waiter.done() or waiter.cancelled():
        return None
    error: BaseException | None = waiter.exception()
    return error


def _sending(producer: AIOKafkaProducer) -> set[asyncio.Task[Any]]:
    """Return the tasks that send for a producer.

    The sender forgets those that it has in flight when it is cancelled for the second time, and they
    try again for as long as the process lives.
    """
    sender = producer._sender
    frames = ((t, getattr(t.get_coro(), "cr_frame", None)) for t in asyncio.all_tasks())
    return {t for t, frame in frames if frame is not None and frame.f_locals.get("self") is sender}
