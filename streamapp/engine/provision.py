"""The topics that an application needs: made with the right partitions and settings, or refused."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import aiokafka.errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from mode.utils.times import want_seconds

from streamapp.engine.refusals import remedy
from streamapp.engine.settings import EngineSettings
from streamapp.engine.topic import Topic
from streamapp.engine.topology import Topology
from streamapp.errors import TopicError

__all__ = [
    "TOMBSTONES_KEPT",
    "Provisioned",
    "Wanted",
    "configs_of",
    "inspect",
    "provision",
    "provision_classic",
    "provision_late",
    "provision_one",
    "wanted_topics",
]

log = logging.getLogger(__name__)

#: Seconds until a topic that was made has to be visible.
_VISIBLE_WITHIN = 30.0
#: THROTTLING_QUOTA_EXCEEDED (KIP-599), which aiokafka has no name for: it passes.
_THROTTLED = 89
#: How long the engine lets changelogs keep deletes, in milliseconds: a store that was away for less
#: has missed none.
TOMBSTONES_KEPT = 7 * 24 * 3600 * 1000
_CHANGELOG = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.3",
    "delete.retention.ms": str(TOMBSTONES_KEPT),
}
_MARKERS = {"cleanup.policy": "compact", "segment.bytes": str(16 << 20)}
#: An intent names each record of its batch that could not be decoded.
_INTENTS = {**_MARKERS, "max.message.bytes": str(16 << 20)}


@dataclass(slots=True)
class Wanted:
    """A topic that the application needs; without a number of partitions it takes what it finds.

    `state_of` is the topology whose state it has, if any: a partition a task.
    `following` says what lets it follow a source that grew.
    """

    name: str
    partitions: int | None = None
    config: dict[str, str] = field(default_factory=dict)
    replicas: int | None = None
    state_of: str | None = None
    following: str = ""


@dataclass(slots=True)
class Provisioned:
    """What the cluster has.

    Attributes:
        partitions: partition counts, by topic.
        limits: the largest record of a topic, in bytes.
        tombstones: how long a topic keeps deletes, in milliseconds.
    """

    partitions: dict[str, int]
    limits: dict[str, int]
    tombstones: dict[str, int] = field(default_factory=dict)


def _of_topic(topic: Topic) -> Wanted:
    config = {str(key): str(value) for key, value in (topic.config or {}).items()}
    if topic.compacting:
        config.setdefault("cleanup.policy", "compact,delete" if topic.deleting else "compact")
    if topic.retention:
        config.setdefault("retention.ms", str(round(want_seconds(topic.retention) * 1000)))
    return Wanted(topic.name, topic.partitions, config, topic.replicas)


def wanted_topics(
    topologies: Iterable[Topology],
    partitions: Mapping[str, int],
    dead_letters: str,
    settings: EngineSettings,
) -> dict[str, Wanted]:
    """Return what the topologies need beside their sources, whose `partitions` are known by now."""
    wanted: dict[str, Wanted] = {dead_letters: Wanted(dead_letters, None)}
    for topology in topologies:
        tasks = partitions[topology.sources[0].name]
        for table in topology.tables:
            changelog = topology.changelog(table.name)
            wanted[changelog] = Wanted(changelog, tasks, dict(_CHANGELOG))
        for name, topic in topology.outputs.items():
            wanted.setdefault(name, _of_topic(topic))
        for key_by in topology.key_bys:
            wanted.setdefault(key_by.name, _of_topic(key_by))
        wanted[topology.checkpoint_topic] = Wanted(topology.checkpoint_topic, tasks, dict(_MARKERS))
        if topology.presents:
            wanted[topology.intents_topic] = Wanted(topology.intents_topic, tasks, dict(_INTENTS))
        retention = str(round(settings.ledger_retention * 1000))
        wanted[topology.ledger_topic] = Wanted(
            topology.ledger_topic, tasks, {"retention.ms": retention}
        )
        for name in _state_topics(topology):
            wanted[name].state_of = topology.name
            wanted[name].following = topology.following
    return wanted


def _state_topics(topology: Topology) -> list[str]:
    intents = [topology.intents_topic] if topology.presents else []
    changelogs = [topology.changelog(table.name) for table in topology.tables]
    return [topology.checkpoint_topic, topology.ledger_topic, *intents, *changelogs]


async def inspect(admin: AIOKafkaAdminClient, names: Iterable[str]) -> Provisioned:
    """Return what the cluster has of some topics; nothing is made or refused."""
    found = await _partition_counts(admin, names)
    return Provisioned(found, _numbers(await configs_of(admin, found), "max.message.bytes"))


async def provision(
    admin: AIOKafkaAdminClient,
    topologies: list[Topology],
    default_partitions: int,
    dead_letters: str,
    settings: EngineSettings,
    bootstrap: str,
) -> Provisioned:
    """Make the missing topics and check the others.

    Raises:
        TopicError: partition counts do not fit together; the message has the command that mends it.
    """
    sources = {
        source.name: _of_topic(source) for topology in topologies for source in topology.sources
    }
    partitions = await _ensure(admin, sources, default_partitions, settings, bootstrap)
    for topology in topologies:
        _check_co_partitioned(topology, partitions, bootstrap)
    wanted = wanted_topics(topologies, partitions, dead_letters, settings)
    partitions |= await _ensure(admin, wanted, default_partitions, settings, bootstrap)
    configs = await configs_of(admin, partitions)
    for topology in topologies:
        _check_kept(topology, configs, bootstrap)
    return Provisioned(
        partitions, _numbers(configs, "max.message.bytes"), _numbers(configs, "delete.retention.ms")
    )


async def provision_late(
    admin: AIOKafkaAdminClient,
    names: Iterable[str],
    known: Provisioned,
    default_partitions: int,
    settings: EngineSettings,
    bootstrap: str,
) -> None:
    """Make topics that nobody declared and an agent sends to all the same; add them to the known."""
    wanted = {name: Wanted(name) for name in names}
    found = await _ensure(admin, wanted, default_partitions, settings, bootstrap)
    known.limits.update(_numbers(await configs_of(admin, found), "max.message.bytes"))
    known.partitions.update(found)


async def provision_classic(
    admin: AIOKafkaAdminClient,
    topics: Iterable[Topic],
    default_partitions: int,
    settings: EngineSettings,
) -> None:
    """Make the topics of Faust's own agents that are missing; those that are there may be as they are."""
    wanted = {
        name: dataclasses.replace(_of_topic(topic), name=name)
        for topic in topics
        for name in topic.topics
    }
    existing = await _partition_counts(admin, wanted)
    missing = {name: topic for name, topic in wanted.items() if name not in existing}
    if missing:
        await _create(admin, list(missing.values()), default_partitions, settings)
        await _visible(admin, missing)


async def provision_one(
    admin: AIOKafkaAdminClient, topic: Wanted, settings: EngineSettings, bootstrap: str
) -> None:
    """Make one topic that no topology needs.

    Raises:
        TopicError: it has another number of partitions.
    """
    await _ensure(admin, {topic.name: topic}, 1, settings, bootstrap)


async def _ensure(
    admin: AIOKafkaAdminClient,
    wanted: Mapping[str, Wanted],
    default_partitions: int,
    settings: EngineSettings,
    bootstrap: str,
) -> dict[str, int]:
    existing = await _partition_counts(admin, wanted)
    missing = [topic for name, topic in wanted.items() if name not in existing]
    if missing:
        await _create(admin, missing, default_partitions, settings)
        existing = await _visible(admin, wanted)
    for name, topic in wanted.items():
        found = existing.get(name)
        if found is None:
            raise TopicError(
                f"the topic {name} was made and is not there: does the broker allow it?"
            )
        if topic.partitions is not None and found != topic.partitions:
            raise TopicError(_mismatch(topic, found, topic.partitions, bootstrap))
    return existing


def _mismatch(topic: Wanted, found: int, wanted: int, bootstrap: str) -> str:
    name = topic.name
    if topic.state_of is not None and found < wanted:
        return (
            f"the topic {name} has {found} partitions, and the sources of the topology {topic.state_of} have {wanted} by now: "
            f"keys go to other partitions than those that have their state. Stop the workers, and {topic.following}"
        )
    message = f"the topic {name} has {found} partitions, the application needs {wanted}: "
    if found < wanted:
        return message + (
            f"kafka-topics.sh --bootstrap-server {bootstrap} --alter --topic {name} --partitions {wanted}"
        )
    return message + (
        f"partitions cannot be taken away; either give the topic its number, partitions={found}, where it is "
        f"declared, or delete it if it holds nothing that you need: "
        f"kafka-topics.sh --bootstrap-server {bootstrap} --delete --topic {name}"
    )


async def _visible(admin: AIOKafkaAdminClient, names: Mapping[str, object]) -> dict[str, int]:
    """Wait until topics that were just made can be used: metadata reaches brokers a little later."""
    deadline = time.monotonic() + _VISIBLE_WITHIN
    while True:
        found = await _partition_counts(admin, names)
        if found.keys() == names.keys() or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.05)


async def _partition_counts(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    # Only what is listed is described: a broker that makes topics on demand, which is Kafka's
    # default, would make the others, with one partition and without their settings.
    there = set(await admin.list_topics()).intersection(names)
    if not there:
        return {}
    described = await admin.describe_topics(sorted(there))
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in described
        if topic["error_code"] == 0
        and topic["partitions"]
        and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }


async def _create(
    admin: AIOKafkaAdminClient,
    topics: list[Wanted],
    default_partitions: int,
    settings: EngineSettings,
) -> None:
    response = await admin.create_topics(
        [
            NewTopic(
                topic.name,
                topic.partitions or default_partitions,
                topic.replicas or settings.replication,
                # aiokafka takes the broker's default of -1 only beside an assignment, an empty one too.
                replica_assignments={} if (topic.replicas or settings.replication) == -1 else None,
                topic_configs=topic.config,
            )
            for topic in topics
        ]
    )
    for name, code, *message in response.topic_errors:
        error = kafka_errors.for_code(code)
        # Several workers start at once: another one made it.
        if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
            if error.retriable or code == _THROTTLED or remedy(error()) is not None:
                raise error(f"making the topic {name}: {error.__name__}")
            raise TopicError(
                f"the topic {name} cannot be made: {error.__name__} {message[0] if message else ''}"
            )
        if error is kafka_errors.NoError:
            log.info("made the topic %s", name)


def _check_co_partitioned(
    topology: Topology, partitions: Mapping[str, int], bootstrap: str
) -> None:
    counts = {source.name: partitions[source.name] for source in topology.sources}
    if len(set(counts.values())) > 1:
        most = max(counts.values())
        mend = "; ".join(
            f"kafka-topics.sh --bootstrap-server {bootstrap} --alter --topic {name} --partitions {most}"
            for name, count in counts.items()
            if count < most
        )
        raise TopicError(
            f"the topology {topology.name} reads topics of different partition counts, {counts}: records of one key "
            f"would not meet in one task. Make them equal: {mend}"
        )


def _check_kept(
    topology: Topology, configs: Mapping[str, Mapping[str, str]], bootstrap: str
) -> None:
    """Refuse state in a topic that deletes by age: it would be gone without a word."""
    changelogs = [topology.changelog(table.name) for table in topology.tables]
    intents = [topology.intents_topic] if topology.presents else []
    for name in [topology.checkpoint_topic, *intents, *changelogs]:
        policy = configs.get(name, {}).get("cleanup.policy", "compact")
        if policy != "compact":
            raise TopicError(
                f"the topic {name} has cleanup.policy={policy}: the state in it would be deleted by age. Let it be "
                f"compacted alone: kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics "
                f"--entity-name {name} --add-config cleanup.policy=compact"
            )


async def configs_of(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the settings of topics, of those that the broker tells."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    return {
        name: {entry[0]: entry[1] for entry in entries if entry[1]}
        for response in await admin.describe_configs(resources)
        for _code, _message, _type, name, entries in response.resources
    }


def _numbers(configs: Mapping[str, Mapping[str, str]], setting: str) -> dict[str, int]:
    """Return one setting of each topic that has it."""
    return {name: int(found[setting]) for name, found in configs.items() if setting in found}
