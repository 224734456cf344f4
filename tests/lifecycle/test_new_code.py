"""New code over old state: what is stored depends on names and codecs, never on code objects."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamapp import App, Batches, Count, Sum
from streamapp.errors import AgentFailed, StoreError
from streamapp.ledger import audit
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, run_once
from tests.engine.test_engine import publish
from tests.engine.workers import read_table


class Seen(msgspec.Struct):
    """The value of a table, as the first version has it."""

    times: int


class SeenOnce(msgspec.Struct):
    """The same with a field more, which has a default."""

    times: int
    since: str = "before"


def first(kafka: BrokerUnderTest, state: Path) -> App:
    """The application as it was."""
    app = make_app(kafka, state, topic_partitions=1)
    words = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int, key_type=str)
    windows = app.BatchTable("windows", aggregate=Count(), key_type=str).tumbling(3600)
    seen = app.BatchTable("seen", default=lambda: Seen(0), key_type=str, value_type=Seen)
    gone = app.BatchTable("gone", default=int, key_type=str)

    @app.batch_agent(words, within=0, max_records=2)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1
                windows[word] += 1
                seen[word] = Seen(seen[word].times + 1)
                gone[word] += 1

    return app


def second(kafka: BrokerUnderTest, state: Path) -> App:
    """Another function under another name, a table more and one less, larger batches, a field more."""
    app = make_app(kafka, state, topic_partitions=1)
    words = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=int, key_type=str, value_type=int)
    windows = app.BatchTable("windows", aggregate=Sum(), key_type=str).tumbling(3600)
    seen = app.BatchTable("seen", default=lambda: SeenOnce(0), key_type=str, value_type=SeenOnce)
    lengths = app.BatchTable("lengths", default=int, key_type=str)

    @app.batch_agent(words, within=0.01, max_records=500, topology="count")
    async def count_words(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] = counts[word] + 1
                windows[word] += 1
                seen[word] = msgspec.structs.replace(seen[word], times=seen[word].times + 1)
                lengths[word] = len(word)

    return app


def other_type(kafka: BrokerUnderTest, state: Path) -> App:
    """The counts are objects, all of a sudden."""
    app = make_app(kafka, state, topic_partitions=1)
    words = app.topic(kafka.topic("in"), value_type=str, partitions=1)
    counts = app.BatchTable("counts", default=lambda: Seen(0), key_type=str, value_type=Seen)

    @app.batch_agent(words, within=0, topology="count")
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] = Seen(counts[word].times + 1)

    return app


Build = Callable[[BrokerUnderTest, Path], App]


async def ran(kafka: BrokerUnderTest, state: Path, build: Build, *words: str) -> App:
    await publish(kafka, "in", [word.encode() for word in words])
    app = build(kafka, state)
    await run_once(app)
    return app


async def table(kafka: BrokerUnderTest, app: App, name: str) -> dict[bytes, Any]:
    found = await read_table(kafka.bootstrap, f"{app.conf.id}-{name}-changelog")
    return {key: msgspec.json.decode(raw) for key, raw in found.items()}


@pytest.mark.parametrize("store", ["kept", "lost"])
async def test_new_code_goes_on_where_old_code_was(
    kafka: BrokerUnderTest, tmp_path: Path, store: str
) -> None:
    await kafka.create_topic("in", partitions=1)
    await ran(kafka, tmp_path, first, "ada", "bob", "ada")
    if store == "lost":
        shutil.rmtree(tmp_path)
    app = await ran(kafka, tmp_path, second, "ada", "cyd")
    assert await table(kafka, app, "counts") == {b"ada": 3, b"bob": 1, b"cyd": 1}
    windows = await table(kafka, app, "windows")
    assert sum(windows.values()) == 5
    assert await table(kafka, app, "seen") == {
        b"ada": {"times": 3, "since": "before"},
        b"bob": {"times": 1},
        b"cyd": {"times": 1, "since": "before"},
    }
    assert await table(kafka, app, "lengths") == {b"ada": 3, b"cyd": 3}
    assert await table(kafka, app, "gone") == {b"ada": 2, b"bob": 1}, "its changelog stays"
    assert (await audit(app.kafka_options(), app.topologies())).well


async def test_a_table_that_comes_back_has_what_it_had(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await ran(kafka, tmp_path, first, "ada")
    await ran(kafka, tmp_path, second, "ada")
    app = await ran(kafka, tmp_path, first, "ada")
    assert await table(kafka, app, "counts") == {b"ada": 3}
    assert await table(kafka, app, "gone") == {b"ada": 2}


async def test_a_type_that_does_not_read_the_old_state_is_refused_and_can_be_changed_back(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await ran(kafka, tmp_path, first, "ada")
    with pytest.raises(AgentFailed) as raised:
        await ran(kafka, tmp_path, other_type, "ada")
    assert isinstance(raised.value.__cause__, StoreError)
    assert "counts['ada'] holds b'1', and that does not decode as json:Seen" in str(
        raised.value.__cause__
    )
    app = await ran(kafka, tmp_path, first, "ada")
    assert await table(kafka, app, "counts") == {b"ada": 3}
