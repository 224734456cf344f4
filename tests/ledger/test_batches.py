"""The latest batches, of entries by hand and of workers on a broker."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from streamapp.ledger.batches import batches_of, following, latest_batches
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.rendering import batches_text
from tests.engine.running import run_once, running
from tests.ledger.shop import Shop
from tests.ledger.test_audit import ORDERS
from tests.ledger.test_proof import an_entry, first, second
from tests.polling import eventually


def test_how_long_a_batch_took_to_commit_is_in_the_entry_after_it() -> None:
    entry = an_entry(1, ("a", 0, 5), outputs=3, changes=2, processing=1.5, previous_commit=99.0)
    [batch] = batches_of(entry, an_entry(2, previous_commit=4.25))
    assert (batch.id, batch.commit, batch.processing) == ("a:3:0-5", 4.25, 1.5)
    [batch] = batches_of(entry, None)
    assert batch.commit is None
    head, line = batches_text([batch], head=True)
    assert head.split()[:4] == ["processed", "at", "batch", "records"]
    assert line.split()[1:] == [
        "00:00:01.000Z",
        "a:3:0-5",
        "5",
        "3",
        "2",
        "0",
        "0",
        "-",
        "1.5",
        "-",
        "ada",
    ]


def test_at_most_once_a_batch_is_shown_once() -> None:
    committed, processed = first(1, ("a", 0, 5)), second(2, ("a", 0, 5))
    assert list(batches_of(committed, processed)) == []
    [batch] = batches_of(processed, None)
    assert not batch.committed_only
    [lost] = batches_of(committed, first(2, ("a", 5, 9)))
    assert (lost.id, lost.committed_only) == ("a:3:0-5", True)


def test_what_moved_offsets_alone_is_no_batch() -> None:
    assert list(batches_of(an_entry(1, ("a", 7, 7), kind="offsets"), None)) == []


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("shop", ["exactly_once", "at_most_once"], indirect=True)
async def test_the_latest_are_listed_oldest_first(shop: Shop, limit: int) -> None:
    for _ in range(3):
        await shop.order(ORDERS)
        await run_once(shop.again())
    async with LedgerReader(shop.app.kafka_options()) as reader:
        found, _ = await latest_batches(reader, [shop.topology], limit)
    ranges = ["0-5", "5-7", "7-12", "12-14", "14-19", "19-21"][-limit:]
    assert [batch.id for batch in found] == [f"{shop.orders}:0:{r}" for r in ranges]
    assert all(batch.outputs == batch.records > 0 for batch in found)
    assert found[-1].commit is None


async def test_what_is_committed_later_follows(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    seen: list[str] = []
    async with LedgerReader(shop.app.kafka_options()) as reader, running(shop.again()):
        _, positions = await latest_batches(reader, [shop.topology], 1)

        async def follow() -> None:
            async for batch in following(reader, positions):
                seen.append(batch.id)

        following_it = asyncio.create_task(follow())
        await shop.order([("ada", 1)], partition=1)
        await eventually(lambda: seen == [f"{shop.orders}:1:0-1"])
        following_it.cancel()
        await asyncio.wait({following_it})


async def test_the_command_prints_a_line_a_batch(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(shop.app)
    done = shop.command("batches", "--limit", "1")
    assert done.returncode == 0, done.stderr
    _, line = done.stdout.splitlines()
    assert f"{shop.orders}:0:5-7" in line
    done = shop.command("batches", "--json")
    lines = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == [f"{shop.orders}:0:0-5", f"{shop.orders}:0:5-7"]
    assert {"records", "outputs", "changes", "late", "dead_letters", "watermark"} <= {*lines[0]}
    assert {"processing", "commit", "worker", "at", "topology", "sequence"} <= {*lines[0]}
