"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs (KIP-133, KIP-339)."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import Any, Final

from ..configs import TOPIC_CONFIGS, ConfigSource, ConfigType, TopicConfig, validate
from ..errors import ErrorCode, Refused
from ..events import ConfigsSet
from ..protocol import Answer, Call, Request
from ..state import NODE_ID, State


class Resource(IntEnum):
    """What configurations belong to."""

    topic = 2
    broker = 4


class Operation(IntEnum):
    """What IncrementalAlterConfigs does with a value."""

    set = 0
    delete = 1
    append = 2
    subtract = 3


def described(
    state: State, config: TopicConfig, names: Collection[str] | None
) -> list[dict[str, Any]]:
    """A topic's configurations, by the fields of DescribeConfigs; all of them without `names`."""
    answers = []
    for name, definition in TOPIC_CONFIGS.items():
        if names is not None and name not in names:
            continue
        defaults = [
            (state.config.topic_defaults.get(name), ConfigSource.static_broker),
            (definition.default, ConfigSource.default),
        ]
        values = [(config.overrides.get(name), ConfigSource.topic), *defaults]
        known = [(value, source) for value, source in values if value is not None]
        value, source = known[0]
        answers.append(
            {
                "name": name,
                "value": value,
                "config_source": source,
                "is_default": source is not ConfigSource.topic,
                "synonyms": [
                    {"name": name, "value": each, "source": origin} for each, origin in known
                ],
                "config_type": definition.type,
            }
        )
    return answers


def _broker_configs(state: State, names: Collection[str] | None) -> list[dict[str, Any]]:
    config = state.config
    values = {
        "auto.create.topics.enable": (str(config.auto_create).lower(), ConfigType.boolean),
        "default.replication.factor": ("1", ConfigType.int),
        "message.max.bytes": (str(config.message_max_bytes), ConfigType.int),
        "num.partitions": (str(config.default_partitions), ConfigType.int),
        "socket.request.max.bytes": (str(config.max_request_bytes), ConfigType.int),
    }
    return [
        {
            "name": name,
            "value": value,
            "read_only": True,
            "config_source": ConfigSource.static_broker,
            "config_type": type_,
        }
        for name, (value, type_) in values.items()
        if names is None or name in names
    ]


def describe_configs(state: State, request: Request, call: Call) -> Answer:
    """DescribeConfigs, of topics and of the broker."""

    def one(asked: Any) -> dict[str, Any]:
        here = {"resource_type": asked.resource_type, "resource_name": asked.resource_name}
        names = asked.configuration_keys
        try:
            if asked.resource_type == Resource.topic:
                config = state.topics.topic(asked.resource_name).config
                return {**here, "configs": described(state, config, names)}
            if asked.resource_type == Resource.broker:
                if asked.resource_name not in ("", str(NODE_ID)):
                    raise Refused(ErrorCode.invalid_request, f"this is broker {NODE_ID}")
                return {**here, "configs": _broker_configs(state, names)}
            raise Refused(ErrorCode.invalid_request, f"resource type {asked.resource_type}")
        except Refused as refused:
            return {**here, "error_code": refused.code, "error_message": refused.message}

    return {"results": [one(each) for each in request.resources]}


def alter_configs(state: State, request: Request, call: Call) -> Answer:
    """AlterConfigs: these values, and none of those that were set before."""

    def changed(before: dict[str, str], asked: Any) -> dict[str, str]:
        return {each.name: validate(each.name, each.value) for each in asked.configs}

    return _altered(state, request, changed)


def incremental_alter_configs(state: State, request: Request, call: Call) -> Answer:
    """IncrementalAlterConfigs (KIP-339): set, delete, append to or subtract from a value."""

    def changed(before: dict[str, str], asked: Any) -> dict[str, str]:
        after = dict(before)
        for each in asked.configs:
            if each.config_operation == Operation.delete:
                if each.name not in TOPIC_CONFIGS:
                    validate(each.name, "")
                after.pop(each.name, None)
            elif each.config_operation == Operation.set:
                after[each.name] = validate(each.name, each.value)
            else:
                after[each.name] = _list_changed(after, each)
        return after

    return _altered(state, request, changed)


def _list_changed(values: dict[str, str], asked: Any) -> str:
    definition = TOPIC_CONFIGS.get(asked.name)
    if definition is None or definition.type is not ConfigType.list:
        raise Refused(ErrorCode.invalid_config, f"Can't APPEND or SUBTRACT {asked.name}")
    items = values.get(asked.name, definition.default).split(",")
    operands = (asked.value or "").split(",")
    if asked.config_operation == Operation.append:
        items += [each for each in operands if each not in items]
    else:
        items = [each for each in items if each not in operands]
    return validate(asked.name, ",".join(items))


def _altered(state: State, request: Request, changed: Any) -> Answer:
    def one(asked: Any) -> dict[str, Any]:
        here = {"resource_type": asked.resource_type, "resource_name": asked.resource_name}
        try:
            if asked.resource_type != Resource.topic:
                raise Refused(
                    ErrorCode.invalid_request, "only topics can be altered while the broker runs"
                )
            topic = state.topics.topic(asked.resource_name)
            configs = changed(topic.config.overrides, asked)
            if not request.validate_only and configs != topic.config.overrides:
                state.record(ConfigsSet(topic.name, configs))
        except Refused as refused:
            return {**here, "error_code": refused.code, "error_message": refused.message}
        return here

    return {"responses": [one(each) for each in request.resources]}


def _refuse_describe(request: Request, error: ErrorCode) -> Answer:
    return {"results": _refused(request, error)}


def _refuse_alter(request: Request, error: ErrorCode) -> Answer:
    return {"responses": _refused(request, error)}


def _refused(request: Request, error: ErrorCode) -> list[dict[str, Any]]:
    return [
        {
            "error_code": error,
            "error_message": error.name,
            "resource_type": each.resource_type,
            "resource_name": each.resource_name,
        }
        for each in request.resources
    ]


HANDLERS: Final = {
    "DescribeConfigs": describe_configs,
    "AlterConfigs": alter_configs,
    "IncrementalAlterConfigs": incremental_alter_configs,
}
REFUSALS: Final = {
    "DescribeConfigs": _refuse_describe,
    "AlterConfigs": _refuse_alter,
    "IncrementalAlterConfigs": _refuse_alter,
}
