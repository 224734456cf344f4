"""`python -m bench.restore`: what restoring a task costs beside a bare loop of aiokafka and WriteBatch.

Both read one changelog partition from the same embedded broker (a process of its own) into a
RocksDB with the same options, each in a fresh process, in turn. From connecting to the last write,
CPU time of all threads and wall time count, as ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console
from rich.table import Table
from rocksdict import Rdict, WriteBatch

from bench.__main__ import broker, say
from streamapp import App, Batches
from streamapp.engine.marker import MARKER_KEY, Marker, encode
from streamapp.engine.progress import Recovery
from streamapp.engine.readers import Readers
from streamapp.engine.restore import Restore
from streamapp.engine.topology import Topology
from streamapp.state.store import Store, StoreMemory, prefix_of

NAME = "bench"
TABLE = "counts"
FORMS = {"bare": "bare loop: aiokafka, WriteBatch", "restore": "restore of a task"}
_MEMORY = 64 << 20
_TOMBSTONES = 1 / 20


def topology(bootstrap: str) -> Topology:
    """Return a topology with the one table that is restored."""
    app = App(NAME, broker=f"kafka://{bootstrap}", autodiscover=False, web_enabled=False)
    counts = app.BatchTable(TABLE, default=int, key_type=str)

    @app.batch_agent(app.topic("events"), uses=[counts])
    async def count(batches: Batches) -> None:
        async for _ in batches:
            pass

    return app.topologies()[0]


async def load(bootstrap: str, records: int, keys: int, seed: int) -> None:
    """Make the topics, and write a changelog as checkpoints do, each a transaction of some 130 KB.

    Records have about 100 bytes, keys come again, and one record in twenty is a tombstone.
    """
    made = topology(bootstrap)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    names = [made.changelog(TABLE), made.checkpoint_topic]
    compacted = {"cleanup.policy": "compact"}
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs=compacted) for name in names])
    await admin.close()
    draw = random.Random(seed)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, max_batch_size=1 << 17, transactional_id=NAME
    )
    await producer.start()
    batch = producer.create_batch()
    for _ in range(records):
        key = b"key-%012d" % draw.randrange(keys)
        value = None if draw.random() < _TOMBSTONES else draw.randbytes(80)
        while batch.append(key=key, value=value, timestamp=None) is None:
            await commit(producer, batch, names[0])
            batch = producer.create_batch()
    await commit(producer, batch, names[0])
    async with producer.transaction():
        marker = encode(Marker(sequence=1, sources={"events": records}))
        await producer.send_and_wait(made.checkpoint_topic, marker, key=MARKER_KEY, partition=0)
    await producer.stop()


async def commit(producer: AIOKafkaProducer, batch: Any, topic: str) -> None:
    """Write a batch in a transaction of its own, with a control record behind it."""
    async with producer.transaction():
        await (await producer.send_batch(batch, topic, partition=0))


async def bare(bootstrap: str, directory: Path) -> None:
    """Read records, put each into a write batch, write it."""
    made = topology(bootstrap)
    tp, prefix = TopicPartition(made.changelog(TABLE), 0), prefix_of(TABLE)
    database = Rdict(str(directory), StoreMemory(_MEMORY).options())
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    consumer.seek(tp, 0)
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(timeout_ms=50)).values():
            batch = WriteBatch(raw_mode=True)
            for record in records:
                if record.value is None:
                    batch.delete(prefix + record.key)
                else:
                    batch.put(prefix + record.key, record.value)
            database.write(batch)
    await consumer.stop()
    database.close()


async def restore(bootstrap: str, directory: Path) -> None:
    """Restore as a task does that has no store."""

    async def agreed(marker: Marker | None) -> None:
        del marker

    async def renew(why: str, marker: Marker) -> Store:
        raise RuntimeError(f"the store is empty, and cannot be outdated at {marker}: {why}")

    store = Store(directory, "bench", StoreMemory(_MEMORY))
    readers = Readers({"bootstrap_servers": bootstrap})
    with Recovery().opening(NAME) as opening:
        await Restore(
            readers,
            topology(bootstrap),
            0,
            store,
            lambda: round(time.time() * 1000),
            agreed,
            opening,
            renew,
        ).run()
    await readers.close()
    store.close()


def contents(directory: Path) -> str:
    """Return a digest of what a store holds of the table."""
    digest = hashlib.sha256()
    prefix = prefix_of(TABLE)
    pairs: Any = Store.read_only(directory).items(from_key=prefix)
    for key, value in pairs:
        if key.startswith(prefix):
            digest.update(key + value)
    return digest.hexdigest()


def contend(form: str, bootstrap: str) -> None:
    """Run one contender in this process and print its figures."""
    run: Callable[[str, Path], Coroutine[Any, Any, None]] = bare if form == "bare" else restore
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as state:
        wall, cpu = time.perf_counter(), time.process_time()
        asyncio.run(run(bootstrap, Path(state)))
        figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps({**figures, "contents": contents(Path(state))}))


def measure(form: str, bootstrap: str) -> dict[str, Any]:
    """Run one contender in a fresh process; return its figures."""
    command = [sys.executable, "-m", "bench.restore", "--contender", form, "--bootstrap", bootstrap]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"the contender {form!r} failed with status {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def summary(rounds: list[dict[str, dict[str, Any]]], records: int) -> dict[str, dict[str, float]]:
    """Return the medians over all rounds; ratios are taken within a round."""
    return {
        form: {
            "cpu_us_per_record": median(r[form]["cpu"] for r in rounds) / records * 1e6,
            "cpu_ratio": median(r[form]["cpu"] / r["bare"]["cpu"] for r in rounds),
            "wall_ratio": median(r[form]["wall"] / r["bare"]["wall"] for r in rounds),
            "records_per_second": records / median(r[form]["wall"] for r in rounds),
        }
        for form in FORMS
    }


def main() -> int:
    """Run the comparison; return 1 when a restore costs more than the limit allows."""
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__)
    parser.add_argument("--records", type=int, default=600_000)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1.5, help="highest ratio to the bare loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--contender", choices=tuple(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender, options.bootstrap)
        return 0
    rounds = []
    with broker() as bootstrap:
        say(f"publishing a changelog of {options.records:,} records to {bootstrap}")
        asyncio.run(load(bootstrap, options.records, options.keys, options.seed))
        for number in range(1, options.rounds + 1):
            # Each goes first in turn: a machine that gets slower in a round favours nobody.
            order = list(FORMS) if number % 2 else list(reversed(FORMS))
            figures = {form: measure(form, bootstrap) for form in order}
            if figures["bare"]["contents"] != figures["restore"]["contents"]:
                raise SystemExit("the restored store is not what the bare loop has made")
            rounds.append(figures)
            shown = ", ".join(
                f"{form} {figures[form]['cpu']:.2f} s CPU, {figures[form]['wall']:.2f} s"
                for form in FORMS
            )
            say(f"round {number} of {options.rounds}: {shown}")
    result = summary(rounds, options.records)
    ratios = result["restore"]
    over = max(ratios["cpu_ratio"], ratios["wall_ratio"]) > options.limit
    if options.json:
        outcome = {"records": options.records, "rounds": options.rounds, "limit": options.limit}
        print(json.dumps({**outcome, "within_limit": not over, "contenders": result}))
        return int(over)
    table = Table(box=None, pad_edge=False)
    for column in ("", "CPU µs a record", "CPU ratio", "wall ratio", "records/s"):
        table.add_column(column, justify="right" if column else "left")
    for form, found in result.items():
        table.add_row(
            FORMS[form],
            f"{found['cpu_us_per_record']:.2f}",
            f"{found['cpu_ratio']:.2f}",
            f"{found['wall_ratio']:.2f}",
            f"{found['records_per_second']:,.0f}",
        )
    Console(width=120).print(table)
    if over:
        say(f"over the limit of {options.limit}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
