"""The topics that a receiver needs, created where they are missing."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from streamapp.errors import TopicError
from streamapp.receivers.connection import Bootstrap, client_options
from streamapp.receivers.errors import BrokerUnavailable

__all__ = ["TopicSpec", "dead_letters_of", "ensure_topics", "positions_of"]

REPLICAS = 3
"""Copies of a new topic, or as many as there are brokers."""

PATIENCE = 10.0
"""Seconds for which it is tried."""

_PAUSE = 0.2
_TIMEOUT_MS = 15_000


def positions_of(topic: str) -> str:
    """The compacted one-partition topic where the receivers of `topic` keep their positions."""
    return f"{topic}-positions"


def dead_letters_of(topic: str) -> str:
    """Where goes what cannot be published to `topic`, truncated if need be."""
    return f"{topic}-dead-letters"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create if it is missing."""

    name: str
    partitions: int = 1
    configs: Mapping[str, str] = field(default_factory=dict)


async def ensure_topics(bootstrap: Bootstrap, *specs: TopicSpec) -> dict[str, Mapping[str, str]]:
    """Create the topics that are missing, and return every topic's configuration.

    A broker that does not tell configurations leaves them empty.

    Raises:
        BrokerUnavailable: nothing answers at `bootstrap`, or not for now.
        TopicError: a topic cannot be created, or is not compacted where it has to be.
    """
    admin = AIOKafkaAdminClient(**client_options(bootstrap), request_timeout_ms=_TIMEOUT_MS)
    try:
        try:
            await admin.start()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(bootstrap) from error
        configs = await _prepared(admin, specs)
    except (KafkaError, OSError) as error:
        if _passes(error):
            raise BrokerUnavailable(bootstrap, error) from error
        raise TopicError(f"cannot prepare {', '.join(s.name for s in specs)}: {error}") from error
    finally:
        await admin.close()
    for spec in specs:
        wanted, found = spec.configs.get("cleanup.policy"), configs[spec.name].get("cleanup.policy")
        if wanted == "compact" and found is not None and "compact" not in found:
            raise TopicError(
                f"topic {spec.name!r} has to be compacted, and its cleanup.policy is {found!r}:"
                " positions in it would expire. Mend it: kafka-configs.sh --bootstrap-server"
                f" {bootstrap} --alter --topic {spec.name} --add-config cleanup.policy=compact"
            )
    return configs


async def _prepared(
    admin: AIOKafkaAdminClient, specs: tuple[TopicSpec, ...]
) -> dict[str, Mapping[str, str]]:
    """Create and describe, again and again for a while: a new topic is not known to every broker at once."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await _create_missing(admin, specs)
            return {spec.name: await _configuration(admin, spec.name) for spec in specs}
        except (KafkaError, OSError) as error:
            if not _passes(error) or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE)


def _passes(error: KafkaError | OSError) -> bool:
    return isinstance(error, OSError) or bool(error.retriable)


async def _create_missing(admin: AIOKafkaAdminClient, specs: tuple[TopicSpec, ...]) -> None:
    there = set(await admin.list_topics())
    missing = [spec for spec in specs if spec.name not in there]
    if not missing:
        return
    brokers = (await admin.describe_cluster())["brokers"]
    response = await admin.create_topics(
        [
            NewTopic(
                spec.name,
                spec.partitions,
                min(REPLICAS, len(brokers)),
                topic_configs=dict(spec.configs),
            )
            for spec in missing
        ]
    )
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if code and error.retriable:
            raise error(f"creating topic {name!r}")
        if code and error is not TopicAlreadyExistsError:
            raise TopicError(f"cannot create topic {name!r}: {message or error.__name__}")


async def _configuration(admin: AIOKafkaAdminClient, topic: str) -> Mapping[str, str]:
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    except KafkaError as error:
        if error.retriable:
            raise
        return {}
    found: dict[str, str] = {}
    for answer in answers:
        for code, _, _, _, entries in answer.resources:
            if code and for_code(code).retriable:
                raise for_code(code)(f"asking for the configuration of topic {topic!r}")
            found |= {name: value for name, value, *_ in entries}
    return found
