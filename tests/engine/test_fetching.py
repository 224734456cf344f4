"""Whole record batches against aiokafka's record by record: the same records, errors and positions."""

from __future__ import annotations

import gc
import logging
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.engine.fetching import WholeBatches, read_whole
from tests.brokers import BrokerUnderTest

TP = TopicPartition("topic", 0)

CRC = struct.Struct(">I")
CRC_AT, ATTRIBUTES_AT, COUNT_AT, HEADER_END = 17, 21, 57, 61
CONTROL = 0x20
ABORT, COMMIT = b"\0\0\0\0", b"\0\0\0\1"


# -------------------------------------------------------------------- what a broker may answer


@dataclass(frozen=True)
class Fetch:
    """An answer for one partition: bytes of record batches, and the aborted transactions."""

    data: bytes
    aborted: list[tuple[int, int]]
    offset: int


def sealed(batch: bytearray) -> bytes:
    """Return a record batch with the right CRC."""
    CRC.pack_into(batch, CRC_AT, calc_crc32c(bytes(batch[ATTRIBUTES_AT:])))
    return bytes(batch)


def batch_of(
    base: int, deltas: list[int], records: list[Any], codec: int, producer: int, transactional: bool
) -> bytes:
    """Return a record batch; offsets that are not among the deltas are holes."""
    builder = DefaultRecordBatchBuilder(
        2, codec, int(transactional), producer, 0 if producer >= 0 else -1, -1, 1 << 20
    )
    for delta, (timestamp, key, value, headers) in zip(deltas, records, strict=True):
        assert builder.append(delta, timestamp, key, value, headers) is not None
    batch = bytearray(builder.build())
    struct.pack_into(">q", batch, 0, base)
    return bytes(batch)


def emptied(batch: bytes) -> bytes:
    """Return what compaction keeps of a batch without records: its header."""
    header = bytearray(batch[:HEADER_END])
    struct.pack_into(">i", header, 8, HEADER_END - 12)
    struct.pack_into(">i", header, COUNT_AT, 0)
    header[ATTRIBUTES_AT + 1] &= ~0x07
    return sealed(header)


def control(base: int, producer: int, kind: bytes) -> bytes:
    """Return a batch with a transaction's end."""
    batch = bytearray(batch_of(base, [0], [(1, kind, b"\0" * 6, [])], 0, producer, True))
    batch[ATTRIBUTES_AT + 1] |= CONTROL
    return sealed(batch)


def legacy(base: int, magic: int, values: list[bytes], codec: int) -> bytes:
    """Return records as brokers wrote them before Kafka 0.11."""
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number if codec else base + number, 1000 + number, b"k", value)
    data = bytearray(builder.build())
    if codec and magic == 1:
        struct.pack_into(">q", data, 0, base + len(values) - 1)
    return bytes(data)


payloads = st.one_of(st.none(), st.binary(max_size=12))
headers = st.lists(st.tuples(st.text(max_size=3), payloads), max_size=2)
records = st.tuples(st.integers(0, 2**41), payloads, payloads, headers)


@st.composite
def fetches(draw: st.DrawFn) -> Fetch:
    """Answers with transactions, holes, empty and compressed batches, from anywhere in a batch."""
    data = b""
    offset = draw(st.integers(0, 3))
    begin: int | None = None
    open_since: dict[int, int] = {}
    aborted: list[tuple[int, int]] = []
    for kind in draw(
        st.lists(st.sampled_from(("plain", "transaction", "end", "empty", "old")), max_size=7)
    ):
        offset += draw(st.sampled_from((0, 0, 0, 2)))
        base, single = offset, False
        producer = draw(st.integers(1, 2))
        if kind == "end":
            aborts = draw(st.booleans())
            if aborts and producer in open_since:
                aborted.append((producer, open_since[producer]))
            open_since.pop(producer, None)
            data += control(offset, producer, ABORT if aborts else COMMIT)
            offset += 1
        elif kind == "old":
            values = draw(st.lists(st.binary(max_size=5), min_size=1, max_size=3))
            codec = draw(st.sampled_from((0, 1, 2)))
            data += legacy(offset, 1, values, codec)
            single = not codec
            offset += len(values)
        else:
            found = draw(st.lists(records, min_size=1, max_size=4))
            gaps = draw(st.lists(st.integers(1, 3), min_size=len(found), max_size=len(found)))
            deltas = [sum(gaps[: n + 1]) - 1 for n in range(len(gaps))]
            transactional = kind == "transaction"
            batch = batch_of(
                offset,
                deltas,
                found,
                draw(st.sampled_from((0, 0, 1, 2, 3, 4))),
                producer if transactional else -1,
                transactional,
            )
            if transactional:
                open_since.setdefault(producer, offset)
            data += emptied(batch) if kind == "empty" else batch
            offset += deltas[-1] + 1
        if begin is None:
            # The first batch of an answer is the one that holds the offset that was asked for.
            begin = base if single else draw(st.integers(max(0, base - 2), offset - 1))
    return Fetch(data, draw(st.permutations(aborted)), begin or 0)


# -------------------------------------------------------------------- what a consumer makes of it


@dataclass
class Partition:
    """As much of a consumer's assignment as a `FetchResult` looks at, with one partition."""

    position: int
    active: bool = True
    paused: bool = False
    seen: list[Any] = field(default_factory=list)

    def state_value(self, tp: TopicPartition) -> Partition:
        del tp
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position


def shown(record: Any) -> tuple[Any, ...]:
    headers = [tuple(header) for header in record.headers]
    return (record.offset, record.timestamp, record.key, record.value, headers)


def consumed(fetch: Fetch, *, whole: bool) -> list[Any]:
    """Return what every call of `getall` gives, and the consumer's position after it."""
    partition = Partition(fetch.offset)
    batches = MemoryRecords(fetch.data)
    found = PartitionRecords(
        TP, batches, list(fetch.aborted), fetch.offset, None, None, True, READ_COMMITTED
    )
    if whole:
        read_whole(found)
    result = FetchResult(TP, assignment=partition, partition_records=found, backoff=0)
    outcome: list[Any] = []
    while result.has_more() and len(outcome) < 10:
        try:
            some = WholeBatches.records(result.getall())
            outcome.append(([shown(record) for record in some], partition.position))
        except Exception as error:
            outcome.append((type(error), str(error), partition.position))
    return outcome


@settings(max_examples=200, deadline=None)
@given(fetches())
def test_the_same_records_and_positions_come_out(fetch: Fetch) -> None:
    assert consumed(fetch, whole=True) == consumed(fetch, whole=False)


@settings(max_examples=100, deadline=None)
@given(fetches(), st.data())
def test_what_is_cut_off_gives_the_same(fetch: Fetch, data: st.DataObject) -> None:
    cut = Fetch(
        fetch.data[: data.draw(st.integers(0, len(fetch.data)))], fetch.aborted, fetch.offset
    )

    assert consumed(cut, whole=True) == consumed(cut, whole=False)


@settings(max_examples=150, deadline=None)
@given(fetches().filter(lambda fetch: fetch.data), st.data())
def test_a_flipped_bit_gives_the_same_error(fetch: Fetch, data: st.DataObject) -> None:
    broken = bytearray(fetch.data)
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = Fetch(bytes(broken), fetch.aborted, fetch.offset)

    assert consumed(flipped, whole=True) == consumed(flipped, whole=False)


@settings(max_examples=100, deadline=None)
@given(fetches().filter(lambda fetch: len(fetch.data) > HEADER_END), st.data())
def test_damage_under_a_right_checksum_gives_the_same_error(
    fetch: Fetch, data: st.DataObject
) -> None:
    broken = bytearray(fetch.data)
    end = 12 + struct.unpack_from(">i", broken, 8)[0]
    if broken[16] == 2:
        broken[data.draw(st.integers(COUNT_AT, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
        broken[:end] = sealed(broken[:end])
    damaged = Fetch(bytes(broken), fetch.aborted, fetch.offset)

    assert consumed(damaged, whole=True) == consumed(damaged, whole=False)


def test_batches_that_overlap_give_each_offset_once() -> None:
    """A base offset is outside of the checksum: one bit, and the batch is another one's neighbour."""
    batches = [
        batch_of(base, [0, 1], [(1, None, b"%d" % base, [])] * 2, 0, -1, False) for base in (0, 1)
    ]
    overlapping = Fetch(b"".join(batches), [], 0)

    [(found, position)] = consumed(overlapping, whole=True)
    assert [record[0] for record in found] == [0, 1, 2]
    assert position == 3
    assert consumed(overlapping, whole=False) == [(found, position)]


def test_what_was_read_is_freed_at_once() -> None:
    """A worker collects cycles seldom, and a fetch has megabytes."""
    gc.disable()
    try:
        data = batch_of(0, [0, 1], [(1, None, b"v", [])] * 2, 0, -1, False)
        found = PartitionRecords(TP, MemoryRecords(data), None, 0, None, None, True, READ_COMMITTED)
        read_whole(found)
        assert len(list(found)) == 1
        gone = weakref.ref(found)
        del found
        assert gone() is None
    finally:
        gc.enable()


def test_a_fetch_within_a_batch_begins_where_it_was_asked_to() -> None:
    data = batch_of(10, [0, 1, 2, 3], [(1, None, b"v", [])] * 4, 0, -1, False)

    [(found, position)] = consumed(Fetch(data, [], 12), whole=True)

    assert [record[0] for record in found] == [12, 13]
    assert position == 14


def test_records_are_a_list_a_batch_until_they_are_asked_for() -> None:
    data = b"".join(
        batch_of(base, [0, 1], [(1, None, b"v", [])] * 2, 0, -1, False) for base in (0, 2, 4)
    )
    found = PartitionRecords(TP, MemoryRecords(data), None, 0, None, None, True, READ_COMMITTED)
    read_whole(found)

    batches = list(found)

    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert [record.offset for record in WholeBatches.records(batches)] == [0, 1, 2, 3, 4, 5]


# -------------------------------------------------------------------- on a consumer


def test_an_aiokafka_with_other_names_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Renamed:
        """A consumer whose fetcher is elsewhere."""

    consumer: Any = Renamed()

    with caplog.at_level(logging.WARNING):
        whole_batches = WholeBatches(consumer)

    assert len(caplog.records) == 1
    assert vars(consumer) == {}
    plain = ["a ConsumerRecord", "another one"]
    assert whole_batches.records(plain) is plain


async def test_partition_records_with_other_names_pass_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Fetcher:
        def __init__(self) -> None:
            self._records: dict[Any, Any] = {}

        async def _proc_fetch_request(self, assignment: Any, node: int, request: Any) -> bool:
            self._records[TP] = FetchResult(
                TP, assignment=assignment, partition_records=object(), backoff=0
            )
            return True

    class Consumer:
        _fetcher = Fetcher()

    consumer: Any = Consumer()
    WholeBatches(consumer)
    assignment, request = SimpleNamespace(active=True), SimpleNamespace(topics=[])

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await consumer._fetcher._proc_fetch_request(assignment, 0, request)

    assert len(caplog.records) == 1


async def test_a_consumer_that_stops_does_not_ask_where_its_partitions_are(
    kafka: BrokerUnderTest,
) -> None:
    """What was on its way then has no answer, as what is refused."""
    topic = await kafka.create_topic("quiet", partitions=1)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, fetch_max_wait_ms=60_000)
    await consumer.start()
    whole_batches = WholeBatches(consumer)
    consumer.assign([TopicPartition(topic, 0)])
    assert await whole_batches.getmany(timeout_ms=500) == {}
    asked: list[None] = []
    client: Any = consumer._client
    client.force_metadata_update = lambda: asked.append(None)
    await consumer.stop()
    assert asked == []


async def _read_to_the_end(
    consumer: AIOKafkaConsumer, tp: TopicPartition, reader: AIOKafkaConsumer | WholeBatches
) -> Iterator[Any]:
    found: list[Any] = []
    [end] = (await consumer.end_offsets([tp])).values()
    while await consumer.position(tp) < end:
        fetched = (await reader.getmany(tp, timeout_ms=100)).get(tp, ())
        found += fetched
    return map(shown, found)


@pytest.mark.parametrize("compression", [None, "gzip", "lz4"])
async def test_a_consumer_reads_the_same_after_pauses_and_seeks(
    kafka: BrokerUnderTest, compression: str | None
) -> None:
    tp = TopicPartition(await kafka.create_topic("t"), 0)
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        transactional_id=f"{tp.topic}-id",
        compression_type=compression,
        linger_ms=5,
    ) as producer:
        for number in range(6):
            await producer.begin_transaction()
            for value in range(50):
                await producer.send(
                    tp.topic, b"%d-%d" % (number, value), b"key", headers=[("h", b"x")]
                )
            if number % 3 == 1:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()

    reading = {"bootstrap_servers": kafka.bootstrap, "isolation_level": "read_committed"}
    async with AIOKafkaConsumer(**reading) as plain, AIOKafkaConsumer(**reading) as consumer:
        whole_batches = WholeBatches(consumer)
        plain.assign([tp])
        consumer.assign([tp])
        for offset in (0, 7, 49, 50, 51, 120, 160, 305):
            consumer.pause(tp)
            assert await consumer.getmany(tp, timeout_ms=10) == {}
            consumer.seek(tp, offset)
            consumer.resume(tp)
            plain.seek(tp, offset)

            expected = list(await _read_to_the_end(plain, tp, plain))
            found = list(await _read_to_the_end(consumer, tp, whole_batches))

            assert found == expected
            assert await consumer.position(tp) == await plain.position(tp)
