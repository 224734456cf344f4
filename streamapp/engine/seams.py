"""The few private names of aiokafka that the engine leans on, in one place (0.14, pinned below 0.15).

Each stands for something that has no public form: the group's generation, a heartbeat on demand,
leaving at once, the size of one record batch, the end of a log with what is not committed in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest

from streamapp.clients import let_go
from streamapp.engine.cancellation import end
from streamapp.errors import StreamappError

__all__ = [
    "check",
    "check_reading",
    "fail_deliveries",
    "generation",
    "guard",
    "heartbeat",
    "high_watermarks",
    "leave_group",
    "member_id",
    "new_batch",
    "rejoin",
    "revive",
    "start",
    "stop",
    "tell_refused_offsets",
]

log = logging.getLogger(__name__)

#: How often to look whether a join is answered, in seconds.
_JOIN_POLL = 0.05


def check(consumer: AIOKafkaConsumer) -> None:
    """Raise what halts the consumer's background work; aiokafka itself tells only who fetches.

    Raises:
        KafkaError: the group refused something: its coordination waits until this was asked, and
            then goes on.
        StreamappError: the work has ended, and the consumer is good for nothing more.
    """
    coordinator: Any = consumer._coordinator
    client: Any = consumer._client
    for work in (coordinator._coordination_task, consumer._fetcher._fetch_task, client._sync_task):
        if work.done():
            error, why = _end_of(work)
            raise StreamappError(
                f"the Kafka client has ended {why}: start the worker again"
            ) from error
    coordinator.check_errors()


async def start(
    consumer: AIOKafkaConsumer,
    failed: Callable[[Exception], float],
    wanted: Callable[[], bool] = lambda: True,
) -> bool:
    """Start a consumer; aiokafka asks each broker for the cluster's metadata once.

    Arguments:
        failed: is told why that did not go, and returns how long to wait, in seconds, or raises.
        wanted: whether somebody waits for it still; if not, it is let go of.

    Returns:
        Whether it has started.
    """
    while wanted():
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await asyncio.sleep(failed(error))
        else:
            break
    if wanted():
        return True
    await stop(consumer)
    return False


def tell_refused_offsets(asker: AIOKafkaConsumer | AIOKafkaAdminClient) -> None:
    """Have the group's refusals to tell its offsets raised; aiokafka takes them for no offsets at all.

    From OffsetFetch v2 on a coordinator says once for all what it has, that it moves or loads, and
    names no partition then.

    Arguments:
        asker: started; a consumer has a group.
    """
    if isinstance(asker, AIOKafkaAdminClient):
        asker._send_request = _telling(asker._send_request, lambda: None)
    else:
        coordinator: Any = asker._coordinator
        coordinator._send_req = _telling(coordinator._send_req, coordinator.coordinator_dead)


def _telling(send: Callable[..., Awaitable[Any]], moved: Callable[[], None]) -> Any:
    async def telling(request: Any, *rest: Any) -> Any:
        answer = await send(request, *rest)
        if isinstance(request, OffsetFetchRequest) and (code := getattr(answer, "error_code", 0)):
            error = for_code(code)
            if issubclass(error, (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)):
                moved()
            raise error("asking for the offsets of the group")
        return answer

    return telling


def revive(consumer: AIOKafkaConsumer) -> None:
    """Start what has ended in an error that was told: heartbeats, and looks at the group's offsets.

    aiokafka leaves them as they are, and tells the same error again each time it is asked.
    """
    coordinator: Any = consumer._coordinator
    if _has_failed(coordinator._heartbeat_task):
        coordinator._heartbeat_task = None
        coordinator._start_heartbeat_task()
    subscription: Any = coordinator._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is not None and _has_failed(coordinator._commit_refresh_task):
        coordinator.start_commit_offsets_refresh_task(assignment)


def _has_failed(work: asyncio.Task[None] | None) -> bool:
    return (
        work is not None and work.done() and not work.cancelled() and work.exception() is not None
    )


def check_reading(consumer: AIOKafkaConsumer) -> None:
    """Raise when the background work of a consumer without a group has ended: it reads nothing more.

    Raises:
        KafkaError: it is good for nothing more, and another one may be.
    """
    work: asyncio.Task[None] = consumer._fetcher._fetch_task
    if work.done():
        error, why = _end_of(work)
        raise KafkaError(f"a consumer has ended {why}") from error


def _end_of(work: asyncio.Task[None]) -> tuple[BaseException | None, str]:
    """Return what work has ended in, and that in words."""
    error = None if work.cancelled() else work.exception()
    if error is None:
        return None, "without a word"
    cause = error.__cause__ or error
    return error, f"in an error, {type(cause).__name__}: {cause}"


def generation(consumer: AIOKafkaConsumer) -> int:
    """Return the generation of the group that the consumer is in; below 1 it is in none."""
    coordinator: Any = consumer._coordinator
    return int(coordinator.generation)


def member_id(consumer: AIOKafkaConsumer) -> str:
    """Return the id that the group gave this member; a member that was replaced gets another."""
    return str(consumer._coordinator.member_id)


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


def rejoin(consumer: AIOKafkaConsumer) -> None:
    """Have the group meet again: what this member says of itself has changed."""
    coordinator: Any = consumer._coordinator
    coordinator.request_rejoin()


async def leave_group(consumer: AIOKafkaConsumer, *, for_good: bool = False) -> None:
    """Tell the coordinator that this member goes, without waiting for a rebalance in flight.

    A static member says nothing: it is expected back (KIP-345). One that goes for good leaves by its
    member id, which a coordinator takes from static members too. It has one as soon as its first
    join is answered; that is waited for, or the coordinator would wait for the member.
    """
    coordinator: Any = consumer._coordinator
    if coordinator is not None:  # it is in no group before it has started
        if for_good:
            await _joined(coordinator)
            coordinator._group_instance_id = None
        await coordinator._maybe_leave_group()


async def _joined(coordinator: Any) -> None:
    """Wait for the answer to a join, for as long as a coordinator may keep it."""
    until = asyncio.get_running_loop().time() + coordinator._rebalance_timeout_ms / 1000
    while coordinator.generation <= 0 and not coordinator._coordination_task.done():
        if asyncio.get_running_loop().time() > until:
            return
        await asyncio.sleep(_JOIN_POLL)


async def high_watermarks(
    consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return where partitions end, open transactions included, from a consumer that reads committed.

    Its own `end_offsets` says where what is committed ends.
    """
    fetcher: Any = copy(consumer._fetcher)
    fetcher._isolation_level = 0
    ends: dict[TopicPartition, int] = await fetcher.end_offsets(
        partitions, consumer._request_timeout_ms
    )
    return ends


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, also one whose background work has ended in an error, which `check` told.

    A join in flight is not waited for: the other members may take their whole rebalance timeout.
    """
    coordination: Any = getattr(consumer._coordinator, "_coordination_task", None)
    if coordination is not None:
        await end(coordination)
    try:
        await consumer.stop()
    except KafkaError as error:
        log.warning("stopping a consumer: %s", error)
        await let_go(consumer._client)


def new_batch(producer: AIOKafkaProducer, size: int) -> Any:
    """Return an empty record batch that takes so many bytes; aiokafka has one size for all topics."""
    producer._message_accumulator._batch_size = size
    return producer.create_batch()


def guard(producer: AIOKafkaProducer, allowed: Callable[[], Awaitable[bool]]) -> None:
    """Ask before each request of a producer; one that is not allowed fails as if no node were there."""
    send = producer.client.send

    async def guarded(node: int, request: Any, **options: Any) -> Any:
        if not await allowed():
            raise NodeNotReadyError("requests are held back")
        return await send(node, request, **options)

    producer.client.send = guarded


def fail_deliveries(producer: AIOKafkaProducer, error: Exception) -> None:
    """Fail what a producer whose sender has ended will not deliver: nobody else does."""
    producer._message_accumulator.fail_all(error)
