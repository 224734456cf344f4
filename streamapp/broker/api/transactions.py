"""InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn (KIP-98)."""

from __future__ import annotations

from typing import Final

from ..errors import ErrorCode, Refused
from ..events import OffsetsPending
from ..protocol import Answer, Call, Request, milliseconds
from ..state import State
from ..transactions import Transaction
from .offsets import commit_answer, committed_offsets

#: The version from which on an API says PRODUCER_FENCED; before, it says INVALID_PRODUCER_EPOCH
#: (KIP-588).
_SAYS_FENCED: Final = {
    "InitProducerId": 4,
    "AddPartitionsToTxn": 2,
    "AddOffsetsToTxn": 2,
    "EndTxn": 2,
}


def _code(refused: Refused, call: Call) -> ErrorCode:
    if refused.code is ErrorCode.producer_fenced:
        since = _SAYS_FENCED.get(call.api.name)
        if since is None or call.version < since:
            return ErrorCode.invalid_producer_epoch
    return refused.code


def init_producer_id(state: State, request: Request, call: Call) -> Answer:
    """InitProducerId: an idempotent producer's id, or the next epoch of a transactional id."""
    try:
        if request.transactional_id is None:
            return {"producer_id": state.transactions.new_producer_id(), "producer_epoch": 0}
        producer_id, epoch = state.transactions.start(
            request.transactional_id,
            milliseconds(request.transaction_timeout),
            producer_id=getattr(request, "producer_id", -1),
            epoch=getattr(request, "producer_epoch", -1),
        )
    except Refused as refused:
        return _refuse_init(request, _code(refused, call))
    return {"producer_id": producer_id, "producer_epoch": epoch}


def _refuse_init(request: Request, error: ErrorCode) -> Answer:
    return {"error_code": error, "producer_id": -1, "producer_epoch": -1}


def add_partitions(state: State, request: Request, call: Call) -> Answer:
    """AddPartitionsToTxn: all of the partitions, or none."""
    topics = request.v3_and_below_topics
    asked = [(topic.name, partition) for topic in topics for partition in topic.partitions]
    errors: dict[tuple[str, int], ErrorCode] = {}
    try:
        transaction = _owner(state, request)
        for name, partition in asked:
            found = state.topics.get(name)
            if found is None or not 0 <= partition < len(found.logs):
                errors[name, partition] = ErrorCode.unknown_topic_or_partition
        if errors:
            for each in asked:
                errors.setdefault(each, ErrorCode.operation_not_attempted)
        else:
            state.transactions.grow(transaction, state.now(), partitions=asked)
    except Refused as refused:
        code = _code(refused, call)
        errors = dict.fromkeys(asked, code)
    return {
        "results_by_topic_v3_and_below": [
            {
                "name": topic.name,
                "results_by_partition": [
                    {
                        "partition_index": partition,
                        "partition_error_code": errors.get((topic.name, partition), ErrorCode.none),
                    }
                    for partition in topic.partitions
                ],
            }
            for topic in topics
        ]
    }


def _owner(state: State, request: Request) -> Transaction:
    return state.transactions.check(
        request.v3_and_below_transactional_id,
        request.v3_and_below_producer_id,
        request.v3_and_below_producer_epoch,
    )


def _refuse_partitions(request: Request, error: ErrorCode) -> Answer:
    return {
        "results_by_topic_v3_and_below": [
            {
                "name": topic.name,
                "results_by_partition": [
                    {"partition_index": partition, "partition_error_code": error}
                    for partition in topic.partitions
                ],
            }
            for topic in request.v3_and_below_topics
        ]
    }


def add_offsets(state: State, request: Request, call: Call) -> Answer:
    """AddOffsetsToTxn: a group's offsets are to be committed with the transaction."""
    try:
        transaction = state.transactions.check(
            request.transactional_id, request.producer_id, request.producer_epoch
        )
        if not request.group_id:
            raise Refused(ErrorCode.invalid_group_id)
        state.transactions.grow(transaction, state.now(), group=request.group_id)
    except Refused as refused:
        return {"error_code": _code(refused, call)}
    return {}


def txn_offset_commit(state: State, request: Request, call: Call) -> Answer:
    """TxnOffsetCommit: offsets that are the group's once the transaction commits.

    From v3 on it carries the consumer's generation, and a member of an older one is refused
    (KIP-447).
    """
    try:
        transaction = state.transactions.check(
            request.transactional_id, request.producer_id, request.producer_epoch
        )
        if request.group_id not in transaction.groups:
            raise Refused(ErrorCode.invalid_txn_state)
    except Refused as refused:
        return commit_answer(request, _code(refused, call))
    error = state.groups.check_transaction(
        request.group_id,
        getattr(request, "member_id", ""),
        getattr(request, "generation_id", -1),
        getattr(request, "group_instance_id", None),
    )
    if error is not ErrorCode.none:
        return commit_answer(request, error)
    offsets, errors = committed_offsets(state, request)
    if offsets:
        state.record(OffsetsPending(request.producer_id, request.group_id, offsets))
    return commit_answer(request, ErrorCode.none, errors)


def end_txn(state: State, request: Request, call: Call) -> Answer:
    """EndTxn: commit or abort."""
    try:
        transaction = state.transactions.check(
            request.transactional_id, request.producer_id, request.producer_epoch
        )
        state.transactions.end(transaction, commit=request.committed)
    except Refused as refused:
        return {"error_code": _code(refused, call)}
    return {}


def _refuse(request: Request, error: ErrorCode) -> Answer:
    return {"error_code": error}


HANDLERS: Final = {
    "InitProducerId": init_producer_id,
    "AddPartitionsToTxn": add_partitions,
    "AddOffsetsToTxn": add_offsets,
    "TxnOffsetCommit": txn_offset_commit,
    "EndTxn": end_txn,
}
REFUSALS: Final = {
    "InitProducerId": _refuse_init,
    "AddPartitionsToTxn": _refuse_partitions,
    "AddOffsetsToTxn": _refuse,
    "TxnOffsetCommit": commit_answer,
    "EndTxn": _refuse,
}
