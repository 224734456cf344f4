"""Produce: records come in.

The answer is encoded here by hand, as its schema has it up to the last version that is not
flexible: a producer that waits for each record waits for this.
"""

from __future__ import annotations

import logging
from struct import Struct
from typing import Final

from .. import batches
from ..decoding import require_keys
from ..errors import ErrorCode, Malformed, Refused
from ..log import PartitionLog
from ..protocol import Answer, Body, Call, Request, pack_string
from ..state import State
from ..topics import Topic

logger = logging.getLogger(__name__)

_I32 = Struct(">i")
_I64 = Struct(">q")
_PRODUCED = Struct(">ihqq")
_NO_STRING = b"\xff\xff"


def produce(state: State, request: Request, call: Call) -> Body | None:
    """Produce v3 to v8: append a batch to each partition; each one has an answer of its own."""
    now = state.now()
    acks = request.acks
    results: list[bytes] = [_I32.pack(len(request.topic_data))]
    for each in request.topic_data:
        results.append(pack_string(each.name))
        results.append(_I32.pack(len(each.partition_data)))
        topic = state.topics.get(each.name)
        for data in each.partition_data:
            try:
                if acks not in (-1, 0, 1):
                    raise Refused(ErrorCode.invalid_required_acks, f"acks={acks}")
                log, appended = _append(state, topic, each.name, data.index, data.records, now)
            except Refused as refused:
                if acks == 0:
                    # There is no answer that could say so: Kafka closes the connection too.
                    raise Malformed(
                        f"{each.name}:{data.index} was refused and acks=0: {refused}"
                    ) from None
                result = _produced(call.version, data.index, refused.code, -1, -1, -1, str(refused))
            else:
                result = _produced(
                    call.version, data.index, ErrorCode.none, *appended, log.start, None
                )
            results.append(result)
    results.append(_I32.pack(0))
    return None if acks == 0 else results


def _append(
    state: State, topic: Topic | None, name: str, partition: int, data: bytes | None, now: int
) -> tuple[PartitionLog, tuple[int, int]]:
    if topic is None or not 0 <= partition < len(topic.logs):
        raise Refused(ErrorCode.unknown_topic_or_partition)
    error = state.faults.take_refusal(name, partition)
    if error is not None:
        raise Refused(error, "a fault that was asked for")
    data = data or b""
    header = batches.check(data, topic.config.max_message_bytes)
    if header.is_transactional:
        state.transactions.check_batch(header.producer_id, header.producer_epoch, (name, partition))
    if not topic.config.stamp:
        _check_times(topic, header, now)
    if topic.config.compact:
        require_keys(data)
    if state.in_memory and state.usage.memory + len(data) > state.config.max_log_bytes:
        raise Refused(
            ErrorCode.policy_violation,
            f"the logs take more than {state.config.max_log_bytes} bytes of memory: delete "
            f"records, shorten retention, or start the broker with a data directory",
        )
    log = topic.logs[partition]
    try:
        appended = log.append(data, header, now, stamp=topic.config.stamp)
        if state.config.fsync:
            log.store.flush()
    except OSError as error:
        logger.error("%s:%d: cannot write: %s", name, partition, error)
        raise Refused(ErrorCode.kafka_storage_error, str(error)) from error
    return log, (appended.base_offset, appended.time)


def _check_times(topic: Topic, header: batches.Header, now: int) -> None:
    """Kafka's bounds on the times that producers give their records (KIP-937)."""
    late = header.max_timestamp > now + topic.config.latest_ms
    if late or 0 <= header.base_timestamp < now - topic.config.earliest_ms:
        raise Refused(
            ErrorCode.invalid_timestamp,
            f"records of {header.base_timestamp} to {header.max_timestamp} ms at {now} ms",
        )


def _produced(
    version: int,
    partition: int,
    error: ErrorCode,
    base_offset: int,
    append_time: int,
    log_start: int,
    message: str | None,
) -> bytes:
    result = _PRODUCED.pack(partition, error, base_offset, append_time)
    if version >= 5:
        result += _I64.pack(log_start)
    if version >= 8:
        result += _I32.pack(0) + (_NO_STRING if message is None else pack_string(message))
    return result


def _refuse_produce(request: Request, error: ErrorCode) -> Answer:
    return {
        "responses": [
            {
                "name": topic.name,
                "partition_responses": [
                    {"index": each.index, "error_code": error, "base_offset": -1}
                    for each in topic.partition_data
                ],
            }
            for topic in request.topic_data
        ]
    }


HANDLERS: Final = {"Produce": produce}
REFUSALS: Final = {"Produce": _refuse_produce}
