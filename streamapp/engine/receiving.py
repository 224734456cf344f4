"""Receivers inside workers: every worker has them all, and one worker at a time runs each.

Receivers know nothing of the engine: what an application declares is adapted to them here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mode import Service

from streamapp.engine.topic import Topic
from streamapp.receivers.connection import Connection
from streamapp.receivers.errors import BrokerUnavailable
from streamapp.receivers.ownership import Ownership
from streamapp.receivers.receiver import Receiver, Status

if TYPE_CHECKING:
    from streamapp.engine.app import App

__all__ = ["DeclaredReceiver", "ReceiverFunction", "Receiving"]

log = logging.getLogger(__name__)

ReceiverFunction = Callable[..., Receiver[Any, Any]]

_NO_BROKER_PAUSE = 2.0
_STOPPING = 10.0


@dataclass(frozen=True, slots=True)
class DeclaredReceiver:
    """A receiver as an application declares it.

    Attributes:
        name: under which its position is kept, and its owner is chosen.
        topic: where its records go.
        make: makes it, of `topic`, `name`, `bootstrap` and `partitions`.
    """

    name: str
    topic: Topic | str
    make: ReceiverFunction


class Receiving(Service):
    """The receivers of an application on one worker, as a service of Faust's worker.

    Arguments:
        session_timeout: seconds after which a dead owner is replaced.
    """

    def __init__(self, app: App, *, session_timeout: float, **options: Any) -> None:
        super().__init__(**options)
        self.app = app
        self._session_timeout = session_timeout
        self._receivers: dict[Receiver[Any, Any], asyncio.Task[None]] = {}

    @property
    def statuses(self) -> list[Status]:
        """How every receiver of this worker is doing; those of other owners wait."""
        return [receiver.status for receiver in self._receivers]

    async def on_start(self) -> None:
        """Join the group of every receiver."""
        app = self.app
        options = app.kafka_options()
        bootstrap = Connection(options.pop("bootstrap_servers"), options)
        for declared in app.receivers.values():
            topic = declared.topic
            receiver = declared.make(
                topic=topic if isinstance(topic, str) else topic.name,
                name=declared.name,
                bootstrap=bootstrap,
                partitions=(None if isinstance(topic, str) else topic.partitions)
                or app.conf.topic_partitions,
            )
            ownership = Ownership(
                bootstrap, receiver.topic, receiver.name, session_timeout=self._session_timeout
            )
            running = asyncio.get_running_loop().create_task(
                self._run(receiver, ownership), name=f"receiver {receiver.name}"
            )
            running.add_done_callback(self._ended)
            self._receivers[receiver] = running

    async def on_stop(self) -> None:
        """Commit what was received, and leave the groups."""
        if not self._receivers:
            return
        for receiver in self._receivers:
            receiver.stop()
        _, pending = await asyncio.wait(self._receivers.values(), timeout=_STOPPING)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        self._receivers = {}

    async def _run(self, receiver: Receiver[Any, Any], ownership: Ownership) -> None:
        """Run a receiver; without a broker for as long as it takes, since that is no fault of its own."""
        while not receiver.stopping:
            try:
                await receiver.supervised(ownership=ownership)
            except BrokerUnavailable as error:
                log.warning("receiver %s waits for the broker: %s", receiver.name, error)
                await asyncio.sleep(_NO_BROKER_PAUSE)
            else:
                log.info("receiver %s is at its end", receiver.name)
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the worker stops: %s", error)
            self.app.failed(error)
