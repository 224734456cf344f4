"""The topics of the broker: names, partitions, configurations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from .configs import TopicConfig, validate
from .errors import ErrorCode, Refused
from .events import ConfigsSet, LogCleaned, LogTrimmed, PartitionsAdded, TopicCreated, TopicDeleted
from .log import PartitionLog

#: Topics hold few partitions on a laptop; a typing error must not eat the machine.
MAX_PARTITIONS: Final = 10_000
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

#: Opens the log of a partition: topic id, topic name, partition.
OpenLog = Callable[[int, str, int], PartitionLog]


class Topic:
    """A topic and the logs of its partitions."""

    __slots__ = ("config", "logs", "name", "topic_id")

    def __init__(self, name: str, topic_id: int, config: TopicConfig) -> None:
        self.name = name
        self.topic_id = topic_id
        self.config = config
        self.logs: list[PartitionLog] = []


def check_name(name: str) -> None:
    """Raises `Refused` when Kafka does not allow a topic to be called that."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise Refused(
            ErrorCode.invalid_topic_exception,
            f"Topic name {name[:300]!r} is illegal: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', "
            f"and neither '.' nor '..'",
        )


class Topics:
    """All topics, by name. Changes come in as events (`streamapp.broker.events`)."""

    def __init__(self, open_log: OpenLog, defaults: Mapping[str, str]) -> None:
        self._open_log = open_log
        self._defaults = defaults
        self._topics: dict[str, Topic] = {}
        self.next_id = 1

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._topics.values())

    def __len__(self) -> int:
        return len(self._topics)

    def __contains__(self, name: str) -> bool:
        return name in self._topics

    def get(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def topic(self, name: str) -> Topic:
        """The topic of that name; `Refused` when there is none."""
        topic = self._topics.get(name)
        if topic is None:
            raise Refused(ErrorCode.unknown_topic_or_partition, f"there is no topic {name!r}")
        return topic

    def log(self, name: str, partition: int) -> PartitionLog:
        """The log of a partition; `Refused` when there is none."""
        topic = self._topics.get(name)
        if topic is None or not 0 <= partition < len(topic.logs):
            raise Refused(
                ErrorCode.unknown_topic_or_partition, f"there is no partition {name}:{partition}"
            )
        return topic.logs[partition]

    def logs(self) -> Iterator[PartitionLog]:
        for topic in self._topics.values():
            yield from topic.logs

    # -- what may change -----------------------------------------------------------------------

    def check_new(self, name: str, partitions: int, configs: Mapping[str, str | None]) -> None:
        """Raises `Refused` when such a topic cannot be created."""
        check_name(name)
        if name in self._topics:
            raise Refused(ErrorCode.topic_already_exists, f"Topic '{name}' already exists.")
        # Metrics replace '.' by '_', which is why Kafka refuses names that then collide.
        alike = name.replace(".", "_")
        for other in self._topics:
            if other.replace(".", "_") == alike:
                raise Refused(
                    ErrorCode.invalid_topic_exception,
                    f"Topic '{name}' collides with existing topic: {other}",
                )
        self._check_count(partitions)
        for config, value in configs.items():
            validate(config, value)

    def check_growth(self, name: str, partitions: int) -> None:
        """Raises `Refused` when the topic cannot be given that many partitions."""
        current = len(self.topic(name).logs)
        if partitions == current:
            raise Refused(
                ErrorCode.invalid_partitions, f"Topic already has {current} partition(s)."
            )
        if partitions < current:
            raise Refused(
                ErrorCode.invalid_partitions,
                f"The topic {name} currently has {current} partition(s); {partitions} would not "
                f"be an increase.",
            )
        self._check_count(partitions - current)

    def _check_count(self, more: int) -> None:
        if more <= 0:
            raise Refused(
                ErrorCode.invalid_partitions, "Number of partitions was set to an invalid value."
            )
        if more + sum(len(topic.logs) for topic in self) > MAX_PARTITIONS:
            raise Refused(
                ErrorCode.invalid_partitions,
                f"the embedded broker holds at most {MAX_PARTITIONS} partitions",
            )

    # -- events --------------------------------------------------------------------------------

    def created(self, event: TopicCreated) -> None:
        topic = Topic(event.name, event.topic_id, TopicConfig(event.configs, self._defaults))
        self._topics[event.name] = topic
        self.next_id = max(self.next_id, event.topic_id + 1)
        self._open(topic, event.partitions)

    def deleted(self, event: TopicDeleted) -> None:
        for log in self._topics.pop(event.name).logs:
            log.retire()

    def grown(self, event: PartitionsAdded) -> None:
        self._open(self._topics[event.name], event.partitions)

    def configured(self, event: ConfigsSet) -> None:
        self._topics[event.name].config = TopicConfig(event.configs, self._defaults)

    def trimmed(self, event: LogTrimmed) -> None:
        self._topics[event.name].logs[event.partition].trim(event.offset)

    def cleaned(self, event: LogCleaned) -> None:
        log = self._topics[event.name].logs[event.partition]
        log.clean_until = max(event.until, log.start)
        log.cleanings = list(event.cleanings)

    def _open(self, topic: Topic, partitions: int) -> None:
        for partition in range(len(topic.logs), partitions):
            topic.logs.append(self._open_log(topic.topic_id, topic.name, partition))

    def snapshot(self) -> Iterator[TopicCreated | LogTrimmed | LogCleaned]:
        """The events that lead to the topics as they are."""
        for topic in self:
            yield TopicCreated(topic.name, topic.topic_id, len(topic.logs), topic.config.overrides)
            for log in topic.logs:
                if log.start:
                    yield LogTrimmed(topic.name, log.partition, log.start)
                if log.clean_until > log.start or log.cleanings:
                    yield LogCleaned(topic.name, log.partition, log.clean_until, log.cleanings)
