"""Topic configurations: names, defaults and allowed values, as Kafka documents them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .errors import ErrorCode, Refused

_MAX_INT = 2**31 - 1
_MAX_LONG = 2**63 - 1


class ConfigType(IntEnum):
    """How a configuration's value is to be read (DescribeConfigs v3, KIP-569)."""

    boolean = 1
    string = 2
    int = 3
    short = 4
    long = 5
    double = 6
    list = 7


class ConfigSource(IntEnum):
    """Where a configuration's value comes from (DescribeConfigs v1, KIP-226)."""

    topic = 1
    static_broker = 4
    default = 5


@dataclass(frozen=True, slots=True)
class Definition:
    """One configuration: its type, its default, and a check that raises ValueError."""

    type: ConfigType
    default: str
    check: Callable[[str], object]


def _number(type_: ConfigType, default: int, least: int, most: int) -> Definition:
    def check(value: str) -> None:
        if not least <= int(value) <= most:
            raise ValueError(f"must be between {least} and {most}")

    return Definition(type_, str(default), check)


def _int(default: int, least: int = 0) -> Definition:
    return _number(ConfigType.int, default, least, _MAX_INT)


def _long(default: int, least: int = 0) -> Definition:
    return _number(ConfigType.long, default, least, _MAX_LONG)


def _choice(default: str, *choices: str) -> Definition:
    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")

    return Definition(ConfigType.string, default, check)


def _flag(*, default: bool) -> Definition:
    def check(value: str) -> None:
        if value.lower() not in ("true", "false"):
            raise ValueError("must be true or false")

    return Definition(ConfigType.boolean, str(default).lower(), check)


def _ratio(default: float) -> Definition:
    def check(value: str) -> None:
        if not 0 <= float(value) <= 1:
            raise ValueError("must be between 0 and 1")

    return Definition(ConfigType.double, str(default), check)


def _policies(value: str) -> None:
    if not set(value.split(",")) <= {"compact", "delete"}:
        raise ValueError("must be compact, delete or both")


TOPIC_CONFIGS: Final[Mapping[str, Definition]] = {
    "cleanup.policy": Definition(ConfigType.list, "delete", _policies),
    "compression.type": _choice(
        "producer", "producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"
    ),
    "delete.retention.ms": _long(86_400_000),
    "file.delete.delay.ms": _long(60_000),
    "flush.messages": _long(_MAX_LONG, 1),
    "flush.ms": _long(_MAX_LONG),
    "index.interval.bytes": _int(4096),
    "max.compaction.lag.ms": _long(_MAX_LONG, 1),
    "max.message.bytes": _int(1_048_588),
    "message.timestamp.after.max.ms": _long(3_600_000),
    "message.timestamp.before.max.ms": _long(_MAX_LONG),
    "message.timestamp.type": _choice("CreateTime", "CreateTime", "LogAppendTime"),
    "min.cleanable.dirty.ratio": _ratio(0.5),
    "min.compaction.lag.ms": _long(0),
    "min.insync.replicas": _int(1, 1),
    "preallocate": _flag(default=False),
    "retention.bytes": _long(-1, -1),
    "retention.ms": _long(604_800_000, -1),
    "segment.bytes": _int(1_073_741_824, 14),
    "segment.index.bytes": _int(10_485_760, 4),
    "segment.jitter.ms": _long(0),
    "segment.ms": _long(604_800_000, 1),
    "unclean.leader.election.enable": _flag(default=False),
}


def validate(name: str, value: str | None) -> str:
    """The value, if the topic configuration `name` may have it; else `Refused`."""
    definition = TOPIC_CONFIGS.get(name)
    if definition is None:
        raise Refused(ErrorCode.invalid_config, f"Unknown topic config name: {name}")
    if value is None:
        raise Refused(ErrorCode.invalid_config, f"Null value not supported for {name}")
    try:
        definition.check(value)
    except ValueError as error:
        raise Refused(
            ErrorCode.invalid_config, f"Invalid value {value} for configuration {name}: {error}"
        ) from None
    return value


class TopicConfig:
    """The configurations set on one topic; what the broker acts on is kept decoded."""

    __slots__ = (
        "compact",
        "delete",
        "delete_retention_ms",
        "earliest_ms",
        "latest_ms",
        "max_message_bytes",
        "min_compaction_lag_ms",
        "min_dirty_ratio",
        "overrides",
        "retention_bytes",
        "retention_ms",
        "segment_bytes",
        "stamp",
    )

    def __init__(self, overrides: Mapping[str, str], defaults: Mapping[str, str]) -> None:
        self.overrides = dict(overrides)

        def value(name: str) -> str:
            return overrides.get(name) or defaults.get(name) or TOPIC_CONFIGS[name].default

        policies = value("cleanup.policy").split(",")
        self.compact = "compact" in policies
        self.delete = "delete" in policies
        self.stamp = value("message.timestamp.type") == "LogAppendTime"
        #: How far a record's timestamp may lie in the past, and in the future (KIP-937).
        self.earliest_ms = int(value("message.timestamp.before.max.ms"))
        self.latest_ms = int(value("message.timestamp.after.max.ms"))
        self.max_message_bytes = int(value("max.message.bytes"))
        self.retention_ms = int(value("retention.ms"))
        self.retention_bytes = int(value("retention.bytes"))
        self.delete_retention_ms = int(value("delete.retention.ms"))
        self.min_compaction_lag_ms = int(value("min.compaction.lag.ms"))
        self.min_dirty_ratio = float(value("min.cleanable.dirty.ratio"))
        self.segment_bytes = int(value("segment.bytes"))
