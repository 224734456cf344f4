"""Transactions, offsets and records through the APIs, where aiokafka is too polite to ask."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from streamapp.broker import Broker, ErrorCode
from tests.broker.building import batch
from tests.broker.wire import Client, create_topic, fetch, fetching, produce

pytestmark = pytest.mark.broker

TIMEOUT = timedelta(seconds=60)


@pytest.fixture(autouse=True)
async def topic(client: Client) -> None:
    await create_topic(client, "t")


async def init(client: Client, version: int = 0, **more: Any) -> dict[str, Any]:
    """A producer's identity, by the fields of the other requests."""
    answer = await client.call(
        "InitProducerId",
        version,
        **{"transactional_id": "x", "transaction_timeout": TIMEOUT, **more},
    )
    assert answer.error_code is ErrorCode.none, answer
    return {
        "transactional_id": "x",
        "producer_id": answer.producer_id,
        "producer_epoch": answer.producer_epoch,
    }


async def add_partition(
    client: Client, producer: dict[str, Any], *topics: str, version: int = 0
) -> list[ErrorCode]:
    named = {f"v3_and_below_{key}": value for key, value in producer.items()}
    answer = await client.call(
        "AddPartitionsToTxn",
        version,
        **named,
        v3_and_below_topics=[{"name": each, "partitions": (0,)} for each in topics],
    )
    return [
        each.results_by_partition[0].partition_error_code
        for each in answer.results_by_topic_v3_and_below
    ]


def transactional(producer: dict[str, Any], sequence: int, value: bytes = b"v") -> bytes:
    return batch(
        (None, value),
        producer=producer["producer_id"],
        epoch=producer["producer_epoch"],
        sequence=sequence,
        transactional=True,
    )


async def end(
    client: Client, producer: dict[str, Any], *, commit: bool, version: int = 0
) -> ErrorCode:
    answer = await client.call("EndTxn", version, **producer, committed=commit)
    code: ErrorCode = answer.error_code
    return code


async def test_a_batch_for_a_partition_that_was_not_added_is_refused(client: Client) -> None:
    producer = await init(client)

    answer = await produce(client, "t", transactional(producer, 0))

    assert answer.error_code is ErrorCode.invalid_txn_state


@pytest.mark.parametrize(
    ("version", "code"),
    [(0, ErrorCode.invalid_producer_epoch), (2, ErrorCode.producer_fenced)],
)
async def test_a_fenced_producer_is_told_in_the_words_of_its_version(
    client: Client, version: int, code: ErrorCode
) -> None:
    zombie = await init(client)
    await add_partition(client, zombie, "t")
    await init(client)

    assert await add_partition(client, zombie, "t", version=version) == [code]
    assert await end(client, zombie, commit=True, version=version) is code
    group = await client.call("AddOffsetsToTxn", version, **zombie, group_id="g")
    assert group.error_code is code
    produced = await produce(client, "t", transactional(zombie, 0))
    assert produced.error_code is ErrorCode.invalid_producer_epoch


async def test_a_producer_may_raise_its_own_epoch_and_a_stranger_may_not(client: Client) -> None:
    first = await init(client, 3)
    identity = {key: first[key] for key in ("producer_id", "producer_epoch")}

    second = await init(client, 3, **identity)
    late = await client.call(
        "InitProducerId", 4, transactional_id="x", transaction_timeout=TIMEOUT, **identity
    )

    assert second["producer_epoch"] == first["producer_epoch"] + 1
    assert late.error_code is ErrorCode.producer_fenced


async def test_epochs_do_not_run_out(broker: Broker, client: Client) -> None:
    first = await init(client)
    transactions = broker._state.transactions
    for _ in range(32_766):
        producer_id, epoch = transactions.start("x", 1000)
    assert (producer_id, epoch) == (first["producer_id"], 32_766)

    fresh = await init(client)

    assert fresh["producer_id"] != first["producer_id"]
    assert fresh["producer_epoch"] == 0


async def test_partitions_are_added_together_or_not_at_all(client: Client) -> None:
    producer = await init(client)

    codes = await add_partition(client, producer, "t", "none")

    assert codes == [ErrorCode.operation_not_attempted, ErrorCode.unknown_topic_or_partition]
    answer = await produce(client, "t", transactional(producer, 0))
    assert answer.error_code is ErrorCode.invalid_txn_state


async def test_ending_twice_the_same_way_is_once_and_the_other_way_is_an_error(
    client: Client,
) -> None:
    producer = await init(client)
    assert await end(client, producer, commit=True) is ErrorCode.invalid_txn_state
    await add_partition(client, producer, "t")

    assert await end(client, producer, commit=True) is ErrorCode.none
    assert await end(client, producer, commit=True) is ErrorCode.none
    assert await end(client, producer, commit=False) is ErrorCode.invalid_txn_state
    assert (await fetch(client, "t", 0)).high_watermark == 1  # one marker


@pytest.mark.parametrize("timeout", [0, -1, 900_001])
async def test_a_transaction_timeout_out_of_bounds_is_refused(client: Client, timeout: int) -> None:
    answer = await client.call(
        "InitProducerId",
        0,
        transactional_id="x",
        transaction_timeout=timedelta(milliseconds=timeout),
    )

    assert answer.error_code is ErrorCode.invalid_transaction_timeout


async def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(
    client: Client,
) -> None:
    producer = await init(client, transaction_timeout=timedelta(milliseconds=20))
    await add_partition(client, producer, "t")
    await produce(client, "t", transactional(producer, 0))

    # The marker is what the fetch waits for.
    waiting = fetching("t", 1, max_wait=TIMEOUT)
    answer = await client.call("Fetch", 11, **waiting)

    assert answer.responses[0].partitions[0].last_stable_offset == 2
    assert await end(client, producer, commit=True) is ErrorCode.invalid_producer_epoch


async def commit_in_transaction(
    client: Client, producer: dict[str, Any], offset: int, version: int = 0, **more: Any
) -> ErrorCode:
    partition = {"partition_index": 0, "committed_offset": offset}
    answer = await client.call(
        "TxnOffsetCommit",
        version,
        **producer,
        group_id="g",
        topics=[{"name": "t", "partitions": [partition]}],
        **more,
    )
    code: ErrorCode = answer.topics[0].partitions[0].error_code
    return code


async def fetch_offset(client: Client, version: int = 3, **more: Any) -> tuple[int, ErrorCode]:
    answer = await client.call(
        "OffsetFetch",
        version,
        group_id="g",
        topics=[{"name": "t", "partition_indexes": (0,)}],
        **more,
    )
    partition = answer.topics[0].partitions[0]
    return partition.committed_offset, partition.error_code


async def test_offsets_of_a_transaction_are_there_when_it_commits(client: Client) -> None:
    producer = await init(client)
    assert await commit_in_transaction(client, producer, 5) is ErrorCode.invalid_txn_state
    await client.call("AddOffsetsToTxn", 0, **producer, group_id="g")
    assert await commit_in_transaction(client, producer, 5) is ErrorCode.none

    assert await fetch_offset(client) == (-1, ErrorCode.none)
    assert await fetch_offset(client, 7, require_stable=True) == (
        -1,
        ErrorCode.unstable_offset_commit,
    )
    await end(client, producer, commit=True)
    assert await fetch_offset(client, 7, require_stable=True) == (5, ErrorCode.none)


async def test_offsets_of_an_aborted_transaction_are_nobody_s(client: Client) -> None:
    producer = await init(client)
    await client.call("AddOffsetsToTxn", 0, **producer, group_id="g")
    await commit_in_transaction(client, producer, 5)

    await end(client, producer, commit=False)

    assert await fetch_offset(client) == (-1, ErrorCode.none)


async def test_a_transaction_s_offsets_are_refused_from_an_old_generation(client: Client) -> None:
    producer = await init(client)
    await client.call("AddOffsetsToTxn", 3, **producer, group_id="g")

    code = await commit_in_transaction(
        client, producer, 5, version=3, generation_id=1, member_id="gone"
    )

    assert code is ErrorCode.unknown_member_id


async def test_deleting_a_topic_forgets_its_offsets(client: Client) -> None:
    commit = {"partition_index": 0, "committed_offset": 3}
    await client.call(
        "OffsetCommit",
        3,
        group_id="g",
        generation_id_or_member_epoch=-1,
        topics=[{"name": "t", "partitions": [commit]}],
    )
    assert await fetch_offset(client) == (3, ErrorCode.none)

    await client.call("DeleteTopics", 3, topic_names=("t",))
    await create_topic(client, "t")

    assert await fetch_offset(client) == (-1, ErrorCode.none)


async def test_a_fetch_waits_for_as_many_bytes_as_it_asks_for(client: Client) -> None:
    data = batch((None, b"value"))
    async with asyncio.timeout(30):
        await client.send(
            "Fetch", 11, **fetching("t", 0, min_bytes=2 * len(data), max_wait=TIMEOUT)
        )
        other = Client(client._broker)
        async with other:
            await produce(other, "t", data)
            await produce(other, "t", data)
        answer = await client.answer("Fetch", 11)

    assert len(answer.responses[0].partitions[0].records) == 2 * len(data)


async def test_a_fetch_that_waits_ends_when_its_topic_is_deleted(client: Client) -> None:
    async with asyncio.timeout(30), Client(client._broker) as other:
        await client.send("Fetch", 11, **fetching("t", 0, max_wait=TIMEOUT))
        await other.call("DeleteTopics", 3, topic_names=("t",))
        answer = await client.answer("Fetch", 11)

    assert answer.responses[0].partitions[0].error_code is ErrorCode.unknown_topic_or_partition


@pytest.mark.parametrize("version", range(4, 12))
async def test_every_version_of_fetch_is_what_its_schema_says(client: Client, version: int) -> None:
    producer = await init(client)
    await add_partition(client, producer, "t")
    await produce(client, "t", transactional(producer, 0))
    await end(client, producer, commit=False)

    answer = await fetch(client, "t", 0, version, isolation_level=1)

    assert answer.error_code is ErrorCode.none
    assert answer.high_watermark == answer.last_stable_offset == 2
    (aborted,) = answer.aborted_transactions
    assert (aborted.producer_id, aborted.first_offset) == (producer["producer_id"], 0)
    missing = await fetch(client, "none", 0, version)
    assert missing.error_code is ErrorCode.unknown_topic_or_partition


@pytest.mark.parametrize("version", range(3, 9))
async def test_every_version_of_produce_is_what_its_schema_says(
    client: Client, version: int
) -> None:
    for offset in range(2):
        answer = await produce(client, "t", batch((None, b"v")), version)
        assert (answer.error_code, answer.base_offset) == (ErrorCode.none, offset)
    refused = await produce(client, "none", batch((None, b"v")), version)
    assert refused.error_code is ErrorCode.unknown_topic_or_partition


async def test_the_first_batch_is_fetched_however_large(client: Client) -> None:
    data = batch((None, b"x" * 5000))
    await produce(client, "t", data)
    await produce(client, "t", data)

    answer = await fetch(client, "t", 0, partition_max_bytes=1, max_bytes=1)

    assert len(answer.records) == len(data)


async def test_a_log_in_memory_is_bounded() -> None:
    async with Broker(max_log_bytes=700) as broker, Client(broker) as client:
        await create_topic(client, "t")
        answers = [await produce(client, "t", batch((None, b"x" * 200)), 8) for _ in range(3)]

    assert [each.error_code.value for each in answers] == [0, 44, 44]
    assert "start the broker with a data directory" in answers[1].error_message


async def test_times_too_far_ahead_are_refused(client: Client) -> None:
    ahead = batch((None, b"v"), timestamps=[10**14])

    assert (await produce(client, "t", ahead)).error_code is ErrorCode.invalid_timestamp


async def test_a_compacted_topic_takes_no_record_without_a_key(client: Client) -> None:
    await create_topic(client, "c", cleanup_policy="compact")

    without = await produce(client, "c", batch((b"k", b"v"), (None, b"v")))
    with_keys = await produce(client, "c", batch((b"k", b"v")))

    assert without.error_code is ErrorCode.invalid_record
    assert with_keys.error_code is ErrorCode.none
