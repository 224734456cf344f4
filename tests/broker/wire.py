"""A client that says exactly what a test wants said, version by version."""

from __future__ import annotations

import asyncio
import struct
from io import BytesIO
from typing import Any

from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from streamapp.broker import Broker
from streamapp.broker.protocol import BY_NAME, builder


class Client:
    """One connection; requests by API name, with kio's field names as mappings."""

    def __init__(self, broker: Broker, client_id: str = "test") -> None:
        self._broker = broker
        self._client_id = client_id.encode()
        self._correlation = 0

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def call(self, api: str, version: int, **values: Any) -> Any:
        """The answer to one request, as kio's class; `EOFError` if there is none."""
        await self.send(api, version, **values)
        return await self.answer(api, version)

    async def send(self, api: str, version: int, **values: Any) -> None:
        """Send a request and wait for nothing."""
        key = BY_NAME[api].key
        schema = load_request_schema(key, version)
        self._correlation += 1
        buffer = BytesIO()
        buffer.write(struct.pack(">hhih", key, version, self._correlation, len(self._client_id)))
        buffer.write(self._client_id)
        if schema.__flexible__:
            buffer.write(b"\0")
        entity_writer(schema)(buffer, builder(schema)(values))
        await self.send_bytes(buffer.getvalue())

    async def send_bytes(self, data: bytes) -> None:
        """Send a frame of these bytes."""
        self.writer.write(struct.pack(">i", len(data)) + data)
        await self.writer.drain()

    async def answer(self, api: str, version: int) -> Any:
        """The next answer, taken for one to this API and version."""
        schema = load_response_schema(BY_NAME[api].key, version)
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        data = await self.reader.readexactly(size)
        start = 4 + (schema.__header_schema__.__version__ == 1)
        response, end = entity_reader(schema)(data, start)
        assert start + end == size
        return response

    async def is_closed(self) -> bool:
        """Whether the broker has closed the connection; waits until it says something."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True


async def create_topic(client: Client, name: str, partitions: int = 1, **configs: str) -> None:
    """Create a topic, with configurations whose dots are written as underscores."""
    answer = await client.call(
        "CreateTopics",
        4,
        topics=[
            {
                "name": name,
                "num_partitions": partitions,
                "replication_factor": 1,
                "configs": [
                    {"name": key.replace("_", "."), "value": value}
                    for key, value in configs.items()
                ],
            }
        ],
    )
    assert answer.topics[0].error_code == 0, answer


def produced(topic: str, *data: bytes) -> list[dict[str, Any]]:
    """The topic data of a Produce request: a batch for each partition, from 0 on."""
    partitions = [{"index": index, "records": each} for index, each in enumerate(data)]
    return [{"name": topic, "partition_data": partitions}]


async def produce(client: Client, topic: str, data: bytes, version: int = 7, **more: Any) -> Any:
    """The answer for partition 0 to one batch."""
    answer = await client.call(
        "Produce", version, **{"acks": -1, **more}, topic_data=produced(topic, data)
    )
    return answer.responses[0].partition_responses[0]


async def fetch(client: Client, topic: str, offset: int, version: int = 11, **more: Any) -> Any:
    """The answer for partition 0."""
    answer = await client.call("Fetch", version, **fetching(topic, offset, **more))
    return answer.responses[0].partitions[0]


def fetching(topic: str, offset: int, **more: Any) -> dict[str, Any]:
    """A Fetch request for partition 0 that does not wait, unless told to."""
    partition_max = more.pop("partition_max_bytes", 1 << 20)
    return {
        "min_bytes": 1,
        "max_bytes": 1 << 20,
        **more,
        "topics": [
            {
                "topic": topic,
                "partitions": [
                    {"partition": 0, "fetch_offset": offset, "partition_max_bytes": partition_max}
                ],
            }
        ],
    }
