"""One way from the stream of X to a topic: `python -m bench.tweet_contenders FORM …` prints its figures.

The process is held to one core. The clock starts with the connection to the stream, and ends when all
tweets are acknowledged, or, with the receiver, committed with its position.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from tweepy.asynchronous import AsyncStreamingClient

from bench.contenders import Stopwatch
from streamapp.receivers.tweets import Api, BearerToken, Progress, TweetReceiver

_TOKEN = "not-a-real-token"


class _Data(msgspec.Struct):
    id: str


class _Line(msgspec.Struct):
    data: _Data


class _Bare(AsyncStreamingClient):  # type: ignore[misc]
    """tweepy as its documentation has it, with a `send` for each tweet."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, count: int) -> None:
        super().__init__(_TOKEN)
        self.connected = asyncio.Event()
        self.received = asyncio.Event()
        self.deliveries: list[asyncio.Future[Any]] = []
        self._producer = producer
        self._topic = topic
        self._count = count
        self._decode = msgspec.json.Decoder(_Line).decode

    async def on_connect(self) -> None:
        self.connected.set()

    async def on_data(self, data: bytes) -> None:
        key = self._decode(data).data.id.encode()
        self.deliveries.append(await self._producer.send(self._topic, data, key=key))
        if len(self.deliveries) == self._count:
            self.received.set()


async def bare(options: argparse.Namespace, watch: Stopwatch, api: Api) -> None:
    """Publish with nothing but tweepy and aiokafka: what is missed or comes twice stays so."""
    producer = AIOKafkaProducer(
        bootstrap_servers=options.bootstrap, acks="all", enable_idempotence=True
    )
    await producer.start()
    await producer.partitions_for(options.topic)
    client = _Bare(producer, options.topic, options.count)
    client.session = api.session()
    streaming = client.filter()
    await client.connected.wait()
    with watch.running():
        await client.received.wait()
        await asyncio.gather(*client.deliveries)
    streaming.cancel()
    await asyncio.wait({streaming})
    await producer.stop()


async def receiver(options: argparse.Namespace, watch: Stopwatch, api: Api) -> None:
    """Publish with the receiver, as it comes."""
    finished = asyncio.Event()

    def look(progress: Progress) -> None:
        if progress.published >= options.count:
            finished.set()

    receiving = TweetReceiver(
        options.topic,
        BearerToken(_TOKEN, "the benchmark"),
        api=api,
        bootstrap=options.bootstrap,
        on_progress=look,
    )
    task = asyncio.create_task(receiving.run())
    while not receiving.summary.connects and not task.done():  # noqa: ASYNC110  (nothing says it)
        await asyncio.sleep(0.0005)
    with watch.running():
        waiting = asyncio.create_task(finished.wait())
        await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    receiving.stop()
    summary = await task
    watch.figures["transactions"] = summary.transactions
    watch.figures["spilled"] = summary.spilled


def main() -> None:
    """Run one contender and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("form", choices=("bare", "receiver"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    watch = Stopwatch(options.profile)
    contender: Any = bare if options.form == "bare" else receiver
    asyncio.run(contender(options, watch, Api(options.host, options.authority)))
    json.dump(watch.figures, sys.stdout)


if __name__ == "__main__":
    main()
