"""What a broker-facing test is given: one broker, and names in it that no other test uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from tests.kafka import KafkaUnavailable
from tests.kafka.server import answers
from tests.kafka.shared import shared_server
from tests.polling import eventually

Kind = Literal["embedded", "apache"]


@dataclass(frozen=True, slots=True)
class BrokerUnderTest:
    """A broker, shared with other tests, and a prefix that is this test's alone.

    bootstrap: the address for clients, `host:port`.
    prefix: what the names of topics, groups, applications and transactional ids begin with.
    """

    bootstrap: str
    kind: Kind
    prefix: str
    _created: list[str] = field(default_factory=list, repr=False)

    def topic(self, name: str) -> str:
        """The name in full: the same short name gives the same topic, within one test."""
        return name if name.startswith(self.prefix) else f"{self.prefix}{name}"

    async def create_topic(self, name: str, partitions: int = 1, **configs: object) -> str:
        """Create a topic, wait until it can be used, and return its name in full.

        Configurations are written with underscores: `cleanup_policy="compact"`.
        """
        topic = self.topic(name)
        settings = {key.replace("_", "."): str(value) for key, value in configs.items()}
        async with admin_client(self.bootstrap) as admin:
            response = await admin.create_topics(
                [NewTopic(topic, partitions, 1, topic_configs=settings)]
            )
            for _, code, message in response.topic_errors:
                if code:
                    raise for_code(code)(message)

            async def led() -> bool:
                [found] = await admin.describe_topics([topic])
                leaders = [partition["leader"] for partition in found["partitions"]]
                return len(leaders) == partitions and min(leaders) >= 0

            await eventually(led)
        self._created.append(topic)
        return topic

    async def delete_topics(self) -> None:
        """Delete what `create_topic` made, as far as it is still there."""
        if self._created:
            async with admin_client(self.bootstrap) as admin:
                await admin.delete_topics(self._created)


@contextlib.asynccontextmanager
async def admin_client(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """An aiokafka admin client, open for as long as the context."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def apache_kafka(directory: Path) -> str:
    """The address of an Apache Kafka: the one at `KAFKA_BOOTSTRAP`, or else the folder's own.

    Raises `KafkaUnavailable` when there is none.
    """
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        if not answers(given, timeout=10.0):
            raise KafkaUnavailable(f"nothing answers at KAFKA_BOOTSTRAP={given}")
        return given
    return shared_server(directory)
