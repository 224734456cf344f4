"""Single requests of Kafka's protocol, where a client would hide what the broker says.

Requests are built from aiokafka's classes, in the version that both sides know.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import GroupCoordinatorNotAvailableError, NodeNotReadyError, StaleMetadata
from aiokafka.protocol.api import Request
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from tests.brokers import BrokerUnderTest
from tests.polling import PATIENCE, eventually

NONE = 0
OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC_OR_PARTITION = 3
MESSAGE_TOO_LARGE = 10
ILLEGAL_GENERATION = 22
INCONSISTENT_GROUP_PROTOCOL = 23
UNKNOWN_MEMBER_ID = 25
REBALANCE_IN_PROGRESS = 27
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
INVALID_PRODUCER_EPOCH = 47
INVALID_TXN_STATE = 48
MEMBER_ID_REQUIRED = 79
FENCED_INSTANCE_ID = 82

NOT_LED_YET = {6}
"""The broker does not know yet that it leads the partition."""

_NOT_NOW = {14, 15, 16, 51}
"""Coordinator loading, not available, elsewhere; another transaction is being ended."""


class Wire:
    """A connection that sends single requests to the broker that is in charge of them."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def to_leader(self, topic: str, request: Request[Any]) -> Any:
        """Ask the leader of the topic's first partition."""

        async def leader() -> int | None:
            await self._client.force_metadata_update()
            return self._client.cluster.leader_for_partition(TopicPartition(topic, 0))

        self._client.add_topic(topic)
        return await self._client.send(await eventually(leader), request)

    async def to_group(self, group: str, request: Request[Any]) -> Any:
        """Ask the coordinator of a group; again while it says that it cannot answer now."""
        return await self._coordinated(CoordinationType.GROUP, group, request)

    async def to_transaction(self, transactional_id: str, request: Request[Any]) -> Any:
        """Ask the coordinator of a transactional id; again while it cannot answer now."""
        return await self._coordinated(CoordinationType.TRANSACTION, transactional_id, request)

    async def fetch(
        self, topic: str, offset: int, *, read_committed: bool = True
    ) -> PartitionFetched:
        """Fetch from the first partition of a topic, as it is on disk."""
        request = FetchRequest(0, 0, 2**20, int(read_committed), [(topic, [(0, offset, 2**20)])])
        response = await self.to_leader(topic, request)
        [(_, [(_, error, high_watermark, last_stable, start, aborted, *_, data)])] = response.topics
        return PartitionFetched(
            error, high_watermark, last_stable, start, list(aborted or []), bytes(data or b"")
        )

    async def _coordinated(self, kind: int, key: str, request: Request[Any]) -> Any:
        async def answer() -> Any:
            try:
                node = await self._client.coordinator_lookup(kind, key)
                response = await self._client.send(node, request)
            except (GroupCoordinatorNotAvailableError, StaleMetadata, NodeNotReadyError):
                await self._client.force_metadata_update()
                return None
            return None if set(_error_codes(response)) & _NOT_NOW else response

        return await eventually(answer)


@dataclass(frozen=True, slots=True)
class PartitionFetched:
    """What a Fetch says of one partition; `aborted` has (producer id, first offset)."""

    error: int
    high_watermark: int
    last_stable_offset: int
    log_start: int
    aborted: list[tuple[int, int]]
    data: bytes

    def batches(self) -> list[BatchOnDisk]:
        """The record batches, control batches too; aiokafka checks that each is whole."""
        found = []
        records = MemoryRecords(self.data)
        while records.has_next():
            batch = records.next_batch()
            assert batch is not None and batch.validate_crc()
            found.append(
                BatchOnDisk(
                    batch.base_offset,
                    batch.producer_id,
                    batch.is_control_batch,
                    [(record.offset, record.key, record.value) for record in batch],
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class BatchOnDisk:
    """One record batch: records are (offset, key, value)."""

    base_offset: int
    producer_id: int
    is_control: bool
    records: list[tuple[int, bytes | None, bytes | None]]


@dataclass(slots=True)
class RawProducer:
    """A transactional producer that does one protocol step at a time and returns its error code."""

    wire: Wire
    transactional_id: str
    producer_id: int = -1
    epoch: int = -1
    _sequence: int = 0

    async def init(self, timeout_ms: int = 60_000) -> None:
        """Get a producer id and epoch: fences whoever had the transactional id before."""
        request = InitProducerIdRequest(self.transactional_id, timeout_ms)
        response = await self.wire.to_transaction(self.transactional_id, request)
        assert response.error_code == NONE
        self.producer_id, self.epoch = response.producer_id, response.producer_epoch

    async def add_partition(self, topic: str) -> int:
        """Make the topic's first partition part of the transaction."""
        response = await self.wire.to_transaction(
            self.transactional_id,
            AddPartitionsToTxnRequest(
                self.transactional_id, self.producer_id, self.epoch, [(topic, [0])]
            ),
        )
        [(_, [(_, error)])] = response.errors
        return int(error)

    async def produce(self, topic: str, *records: bytes, sequence: int | None = None) -> int:
        """Write one batch, by default with the sequence number that is due."""
        due = self._sequence if sequence is None else sequence
        builder = DefaultRecordBatchBuilder(2, 0, 1, self.producer_id, self.epoch, due, 2**20)
        for offset, value in enumerate(records):
            builder.append(offset, None, None, value, [])
        data = bytes(builder.build())
        request = ProduceRequest(self.transactional_id, -1, 10_000, [(topic, [(0, data)])])
        error = await self._led(topic, request)
        if error == NONE:
            self._sequence = due + len(records)
        return error

    async def _led(self, topic: str, request: ProduceRequest) -> int:
        """Send a batch; a topic that was just made may not be led for a moment yet."""
        deadline = time.monotonic() + PATIENCE
        while True:
            response = await self.wire.to_leader(topic, request)
            [(_, [(_, error, *_)])] = response.topics
            if error not in NOT_LED_YET or time.monotonic() > deadline:
                return int(error)
            await asyncio.sleep(0.02)

    async def add_offsets(self, group: str) -> int:
        """Make a group's offsets part of the transaction."""
        response = await self.wire.to_transaction(
            self.transactional_id,
            AddOffsetsToTxnRequest(self.transactional_id, self.producer_id, self.epoch, group),
        )
        return int(response.error_code)

    async def commit_offset(self, group: str, topic: str, offset: int) -> int:
        """Set the group's offset for the topic's first partition, if the transaction commits."""
        request = TxnOffsetCommitRequest(
            self.transactional_id,
            group,
            self.producer_id,
            self.epoch,
            [(topic, [(0, offset, "")])],
        )
        [(_, [(_, error)])] = (await self.wire.to_group(group, request)).errors
        return int(error)

    async def end(self, *, commit: bool) -> int:
        """Commit or abort."""
        request = EndTxnRequest(self.transactional_id, self.producer_id, self.epoch, commit)
        response = await self.wire.to_transaction(self.transactional_id, request)
        return int(response.error_code)


@dataclass(slots=True)
class RawMember:
    """A member of a consumer group that does only what it is told, and sends no heartbeats."""

    wire: Wire
    group: str
    metadata: bytes = b""
    protocol: str = "as-told"
    instance_id: str | None = None
    session_timeout_ms: int = 30_000
    member_id: str = ""
    generation: int = -1
    leader: bool = False
    members: dict[str, bytes] = field(default_factory=dict)

    async def join(self) -> int:
        """Join or rejoin; returns when the group's members are known."""
        response = await self._join()
        if response.error_code == MEMBER_ID_REQUIRED:
            self.member_id = response.member_id
            response = await self._join()
        if response.error_code == NONE:
            self.member_id = response.member_id
            self.generation = response.generation_id
            self.leader = response.leader_id == response.member_id
            self.members = {member: data for member, *_, data in response.members}
        return int(response.error_code)

    async def sync(self, assignments: dict[str, bytes] | None = None) -> tuple[int, bytes]:
        """Get the assignment that the leader made; the leader gives everyone's."""
        request = SyncGroupRequest(
            self.group,
            self.generation,
            self.member_id,
            self.instance_id,
            list((assignments or {}).items()),
        )
        response = await self.wire.to_group(self.group, request)
        return int(response.error_code), bytes(response.member_assignment)

    async def heartbeat(self) -> int:
        """Say that the member is alive."""
        request = HeartbeatRequest(self.group, self.generation, self.member_id)
        return int((await self.wire.to_group(self.group, request)).error_code)

    async def leave(self) -> int:
        """Leave the group."""
        request = LeaveGroupRequest(self.group, self.member_id)
        return int((await self.wire.to_group(self.group, request)).error_code)

    async def _join(self) -> Any:
        request = JoinGroupRequest(
            self.group,
            self.session_timeout_ms,
            30_000,
            self.member_id,
            self.instance_id,
            "consumer",
            [(self.protocol, self.metadata)],
        )
        return await self.wire.to_group(self.group, request)


@contextlib.asynccontextmanager
async def wire(kafka: BrokerUnderTest) -> AsyncIterator[Wire]:
    """A connection to the broker, open for as long as the context."""
    client = AIOKafkaClient(bootstrap_servers=kafka.bootstrap)
    await client.bootstrap()
    try:
        yield Wire(client)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def member(kafka: BrokerUnderTest, group: str, **options: Any) -> AsyncIterator[RawMember]:
    """A member on a connection of its own, as a waiting join holds up what comes after it.

    It does not leave the group at the end of the context: it is just not there any more.
    """
    async with wire(kafka) as connection:
        yield RawMember(connection, group, **options)


def _error_codes(response: Any) -> list[int]:
    """Every error code in a response of a coordinator, at whatever depth."""
    found: list[int] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "error_code":
                    found.append(inner)
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(response.to_object())
    return found
