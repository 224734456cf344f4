"""Connections: what cannot be read closes its own connection, and no other one notices."""

from __future__ import annotations

import asyncio
import struct
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamapp.broker import Broker
from streamapp.broker.api import HANDLERS, REFUSALS
from streamapp.broker.protocol import APIS, BY_NAME
from tests.broker.building import batch
from tests.broker.wire import Client, create_topic, fetching, produce, produced

pytestmark = pytest.mark.broker


def header(key: int, version: int, client_id: bytes = b"c") -> bytes:
    return struct.pack(">hhih", key, version, 1, len(client_id)) + client_id


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\0\0\0\0\0\0\0\0", id="half a header"),
        pytest.param(header(1000, 0), id="an API that is not served"),
        pytest.param(header(3, 99), id="a version that is not served"),
        pytest.param(header(3, -1), id="a version below zero"),
        pytest.param(struct.pack(">hhih", 3, 1, 1, 500), id="a client id beyond the end"),
        pytest.param(header(3, 1, b"\xff\xfe"), id="a client id that is not UTF-8"),
        pytest.param(header(3, 1), id="no body"),
        pytest.param(header(3, 1) + b"\x7f\xff\xff\xff", id="an array beyond the end"),
        pytest.param(header(3, 1) + struct.pack(">i", -1) + b"more", id="bytes left over"),
        pytest.param(header(18, 3) + b"\x01\x00", id="tagged fields in the header"),
    ],
)
async def test_what_is_no_request_closes_the_connection_and_says_why(
    broker: Broker, client: Client, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(broker) as bad:
        await bad.send_bytes(frame)
        assert await bad.is_closed()

    assert "closed the connection of /127.0.0.1: " in caplog.text
    assert (await client.call("ApiVersions", 0)).api_keys


@pytest.mark.parametrize("size", [0, 7, -1, 104_857_601])
async def test_a_size_that_cannot_be_closes_the_connection(broker: Broker, size: int) -> None:
    async with Client(broker) as bad:
        bad.writer.write(struct.pack(">i", size))
        assert await bad.is_closed()


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([(api.key, v) for api in APIS for v in range(api.first, api.last + 1)]),
    st.binary(max_size=60),
)
def test_no_garbage_breaks_the_broker(api: tuple[int, int], body: bytes) -> None:
    async def run() -> None:
        async with Broker() as broker, Client(broker) as bad, Client(broker) as good:
            await bad.send_bytes(header(*api) + body)
            bad.writer.write_eof()
            await bad.reader.read()
            assert (await good.call("ApiVersions", 0)).api_keys

    asyncio.run(run())


async def test_requests_are_answered_in_order_and_one_that_waits_holds_up_its_own_connection(
    broker: Broker, client: Client
) -> None:
    await create_topic(client, "t")
    await client.send("Fetch", 11, **fetching("t", 0, max_wait=timedelta(seconds=60)))
    await client.send("ApiVersions", 0)

    async with Client(broker) as other:
        await produce(other, "t", batch((None, b"value")))

    fetched = await client.answer("Fetch", 11)
    assert fetched.responses[0].partitions[0].high_watermark == 1
    assert (await client.answer("ApiVersions", 0)).api_keys


async def test_an_unknown_version_of_api_versions_is_told_what_there_is(client: Client) -> None:
    await client.send_bytes(header(18, 77))

    answer = await client.answer("ApiVersions", 0)

    assert answer.error_code.name == "unsupported_version"
    assert {each.api_key for each in answer.api_keys} == {api.key for api in APIS}


async def test_without_acknowledgement_there_is_no_answer(client: Client) -> None:
    await create_topic(client, "t")
    await client.send("Produce", 7, acks=0, topic_data=produced("t", batch((None, b"value"))))

    answer = await client.call(
        "ListOffsets",
        2,
        topics=[{"name": "t", "partitions": [{"partition_index": 0, "timestamp": -1}]}],
    )

    assert answer.topics[0].partitions[0].offset == 1


async def test_without_acknowledgement_a_refusal_closes_the_connection(client: Client) -> None:
    await client.send("Produce", 7, acks=0, topic_data=produced("none", batch((None, b"value"))))

    assert await client.is_closed()


async def test_more_connections_than_allowed_are_closed() -> None:
    async with Broker(max_connections=1) as broker, Client(broker) as first:
        await first.call("ApiVersions", 0)
        async with Client(broker) as second:
            assert await second.is_closed()
        assert (await first.call("ApiVersions", 0)).api_keys


async def test_more_unanswered_bytes_than_allowed_close_the_connection() -> None:
    async with Broker(max_pending_bytes=1000) as broker, Client(broker) as first:
        async with Client(broker) as second:
            second.writer.write(struct.pack(">i", 5000) + b"x" * 2000)
            assert await second.is_closed()
        assert (await first.call("ApiVersions", 0)).api_keys


async def test_a_handler_that_fails_is_an_unknown_error_and_no_more(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("streamapp.broker.server.HANDLERS", {"Heartbeat": broken})

    answer = await client.call("Heartbeat", 1, group_id="g", generation_id=1, member_id="m")

    assert answer.error_code.name == "unknown_server_error"


def test_every_api_has_a_handler_and_a_refusal() -> None:
    assert set(HANDLERS) == set(REFUSALS) == set(BY_NAME)
