"""The first service of a worker: it waits for a broker and makes the topics, before anything subscribes.

A consumer that subscribes to a topic that is not there yet learns of it minutes later, when it asks
for metadata again; so Faust's own agents and tables start after this too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from mode import Service

from streamapp.engine.provision import (
    Provisioned,
    provision,
    provision_classic,
    provision_late,
)
from streamapp.engine.readers import Readers
from streamapp.engine.refusals import Refusals
from streamapp.engine.renamed import refuse_renamed
from streamapp.engine.topic import Topic
from streamapp.errors import StreamappError, TopicError

if TYPE_CHECKING:
    from streamapp.engine.app import App

__all__ = ["Cluster", "Provisioning", "no_broker"]

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: The first and the longest pause between two tries to reach a broker, in seconds.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that a worker is at: its id, and what it has of the application's topics."""

    id: str
    topics: Provisioned


class Provisioning(Service):
    """Makes the topics that an application's agents need, and checks those that are there."""

    def __init__(self, app: App, **options: Any) -> None:
        super().__init__(**options)
        self.app = app
        self._cluster: Cluster | None = None

    async def on_start(self) -> None:
        """Make the topics."""
        await self.cluster()

    async def cluster(self) -> Cluster:
        """Return the cluster, its topics made; the broker is asked the first time.

        Raises:
            StreamappError: no broker answers within `App.broker_patience`, or it refuses.
            TopicError: topics do not fit the application.
        """
        if self._cluster is None:
            self._cluster = await self._administer(self._make, self.app.broker_patience)
        return self._cluster

    async def _make(self, admin: AIOKafkaAdminClient) -> Cluster:
        app = self.app
        options = app.kafka_options()
        found = (await admin.describe_cluster())["cluster_id"] or ""
        readers = Readers(options)
        try:
            await refuse_renamed(admin, readers, app.topologies())
        finally:
            await readers.close()
        topics = await provision(
            admin,
            app.topologies(),
            app.conf.topic_partitions,
            app.dead_letter_topic,
            app.engine_settings,
            options["bootstrap_servers"],
        )
        if app.conf.topic_allow_declare:
            await provision_classic(
                admin, self._of_classic_agents(), app.conf.topic_partitions, app.engine_settings
            )
        return Cluster(found, topics)

    def _of_classic_agents(self) -> list[Topic]:
        return [
            agent.channel
            for agent in self.app.agents.values()
            # A pattern of topics names none.
            if isinstance(agent.channel, Topic) and agent.channel.topics
        ]

    async def make_late(self, names: set[str]) -> None:
        """Make topics that nobody declared and an agent sends to; wait as long as there is no broker.

        Raises:
            TopicError: one of them cannot be made.
            StreamappError: the broker refuses.
        """
        known = (await self.cluster()).topics

        async def make(admin: AIOKafkaAdminClient) -> None:
            await provision_late(
                admin,
                names,
                known,
                self.app.conf.topic_partitions,
                self.app.engine_settings,
                self.app.kafka_options()["bootstrap_servers"],
            )

        await self._administer(make, patience=None)

    async def _administer(
        self,
        work: Callable[[AIOKafkaAdminClient], Awaitable[Answer]],
        patience: float | None,
    ) -> Answer:
        """Do something with an admin client; what passes is waited for, for so many seconds."""
        options = self.app.kafka_options()
        bootstrap = options["bootstrap_servers"]
        began = time.monotonic()
        refusals = Refusals()
        said = False
        pause = _FIRST_PAUSE
        while True:
            admin = AIOKafkaAdminClient(**options)
            try:
                await admin.start()
                return await work(admin)
            except (KafkaError, OSError) as error:
                if (mend := refusals.final(error)) is not None:
                    raise TopicError(
                        f"the broker at {bootstrap} refuses what the topics need, {type(error).__name__}: {error}: {mend}"
                    ) from error
                if patience is not None and time.monotonic() > began + patience:
                    raise StreamappError(no_broker(bootstrap)) from error
                if not said:
                    log.warning("waiting for a broker at %s (%s)", bootstrap, error)
                    said = True
            finally:
                await admin.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def no_broker(bootstrap: str) -> str:
    """Return what to say when no broker answers."""
    port = bootstrap.rpartition(":")[2]
    return (
        f"no Kafka broker answers at {bootstrap}: start one (streamapp broker --port {port}), "
        "or name another one: STREAMAPP_BROKER=kafka://HOST:PORT"
    )
