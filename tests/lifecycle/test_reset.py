"""`streamapp reset`: a topology begins anew, wherever copies of its state are, and says so in the ledger."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.errors import ConfigurationError, StoreError, StreamappError
from streamapp.faults import inject
from streamapp.ledger import audit
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle import Beginning, LifecycleError, Reset
from tests.brokers import BrokerUnderTest
from tests.engine import jobs
from tests.engine.jobs import Event
from tests.engine.running import run_once, running
from tests.engine.workers import produce, read_all, read_table
from tests.ledger.shop import Shop

ORDERS = [("ada", 5), ("bob", 7), ("ada", 1)]
SPENT = {b"ada": b"6", b"bob": b"7"}


class Interrupted(Exception):
    """The command was killed here."""


async def spent(shop: Shop) -> dict[bytes, bytes]:
    return await read_table(shop.kafka.bootstrap, shop.topology.changelog("spent"))


async def reset(shop: Shop, place: str = "earliest") -> None:
    async with LedgerReader(shop.app.kafka_options()) as reader:
        await Reset(shop.app, reader, shop.app.topologies(), Beginning.parse(place)).run()


async def ran(shop: Shop, orders: list[tuple[str, int]] = ORDERS) -> None:
    await shop.order(orders)
    await run_once(shop.again())


async def test_it_begins_anew_and_comes_to_the_same(shop: Shop) -> None:
    await ran(shop)
    before = await spent(shop)
    await reset(shop)
    assert await spent(shop) == {}
    await run_once(shop.again())
    assert await spent(shop) == before == SPENT


async def test_the_ledger_has_it_and_the_audit_is_well(shop: Shop) -> None:
    await ran(shop)
    await reset(shop)
    await run_once(shop.again())
    found = await audit(shop.app.kafka_options(), shop.app.topologies())
    assert found.well
    assert found.total("resets") == 2
    [jump] = found.partitions[0].found_resets
    assert (jump.jump.from_offset, jump.jump.until_offset) == (3, 0)
    assert (jump.jump.why, jump.author.worker) == ("streamapp reset", "streamapp reset")


async def test_a_store_that_was_elsewhere_follows(shop: Shop, tmp_path: Path) -> None:
    """Also one that has not seen the reset: a host that was away."""
    await ran(shop)
    shutil.copytree(shop.state, tmp_path / "away")
    await reset(shop, "latest")
    shop.state = tmp_path / "away"
    await ran(shop, [("ada", 2)])
    assert await spent(shop) == {b"ada": b"2"}
    assert not list(shop.state.rglob("*.outdated-*")), "what a reset gave up is kept nowhere"


@pytest.mark.parametrize(("place", "total"), [("latest", b"9"), ("earliest", b"15")])
async def test_where_it_begins(shop: Shop, place: str, total: bytes) -> None:
    await ran(shop)
    await reset(shop, place)
    await ran(shop, [("ada", 9)])
    assert (await spent(shop))[b"ada"] == total


async def test_it_begins_at_a_time(shop: Shop) -> None:
    await ran(shop)
    records = await read_all(shop.kafka.bootstrap, shop.orders)
    await reset(shop, str(max(record.timestamp for record in records) + 1))
    await ran(shop, [("ada", 9)])
    assert await spent(shop) == {b"ada": b"9"}


async def test_one_that_is_interrupted_is_refused_by_workers_and_ends_when_it_is_run_again(
    shop: Shop,
) -> None:
    await ran(shop)

    def interrupt() -> None:
        raise Interrupted

    with inject("reset.emptied", interrupt), pytest.raises(Interrupted):
        await reset(shop)
    with pytest.raises(StoreError, match=r"its reset was interrupted.*: streamapp reset add_up$"):
        await run_once(shop.again())
    await reset(shop)
    await run_once(shop.again())
    assert await spent(shop) == SPENT
    assert (await audit(shop.app.kafka_options(), shop.app.topologies())).well


async def test_it_is_refused_while_a_worker_is_in_the_group(shop: Shop) -> None:
    await shop.order(ORDERS)
    async with running(shop.again(), once=True) as engine:
        await engine.finished.wait()
        with pytest.raises(
            LifecycleError, match=r"add_up is at work: .* has the members worker-0 at "
        ):
            await reset(shop)


async def test_topologies_joined_by_a_key_by_are_reset_together(kafka: BrokerUnderTest) -> None:
    app = jobs.build(kafka.prefix, kafka.bootstrap, "exactly_once", "nowhere").app
    async with LedgerReader(app.kafka_options()) as reader:
        for name in ("count", "count_letters"):
            [one] = [topology for topology in app.topologies() if topology.name == name]
            with pytest.raises(LifecycleError, match=r"streamapp reset count count_letters$"):
                await Reset(app, reader, [one], Beginning()).plan()


async def test_what_was_sent_through_a_key_by_is_counted_once(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=4)
    await produce(kafka, [Event(n, f"{'ab'[n % 2]}{n % 5}", 1_000 + n) for n in range(60)])
    built = jobs.build(kafka.prefix, kafka.bootstrap, "exactly_once", str(tmp_path)).app
    await run_once(built)
    letters = f"{kafka.prefix}app-{kafka.prefix}letters-changelog"
    before = await read_table(kafka.bootstrap, letters)
    async with LedgerReader(built.kafka_options()) as reader:
        await Reset(built, reader, built.topologies(), Beginning()).run()
    await run_once(jobs.build(kafka.prefix, kafka.bootstrap, "exactly_once", str(tmp_path)).app)
    assert await read_table(kafka.bootstrap, letters) == before != {}


async def test_the_command_says_first_and_does_then(shop: Shop) -> None:
    await ran(shop)
    dry = shop.command("reset", "add_up", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    [plan] = json.loads(dry.stdout)["topologies"]
    assert plan["offsets"] == {f"{shop.orders}:0": [3, 0], f"{shop.orders}:1": [None, 0]}
    assert plan["changelogs"].keys() == {shop.topology.changelog("spent")}
    assert await spent(shop) == SPENT
    unasked = shop.command("reset", "add_up")
    assert unasked.returncode == 1 and "Do it?" in unasked.stderr
    assert await spent(shop) == SPENT
    done = shop.command("reset", "add_up", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{shop.orders}:0: from 3 to 0" in done.stdout
    assert done.stdout.endswith("done: start the workers of add_up again\n")
    assert await spent(shop) == {}


async def test_to_checkpoint_takes_back_what_was_done_to_the_group(shop: Shop) -> None:
    await ran(shop)
    async with AIOKafkaConsumer(
        bootstrap_servers=shop.kafka.bootstrap,
        group_id=shop.topology.group,
        enable_auto_commit=False,
    ) as consumer:
        tp = TopicPartition(shop.orders, 0)
        consumer.assign([tp])
        await consumer.commit({tp: 1})
    with pytest.raises(StreamappError, match="disagree"):
        await run_once(shop.again())
    done = shop.command("reset", "add_up", "--to-checkpoint", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{shop.orders}:0: from 1 to 3" in done.stdout
    await ran(shop, [("ada", 1)])
    assert (await spent(shop))[b"ada"] == b"7"
    assert (await audit(shop.app.kafka_options(), shop.app.topologies())).well


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("earliest", None),
        ("1795246200000", 1795246200000),
        ("2026-11-21T07:30:00Z", 1795246200000),
        ("2026-11-21T08:30:00+01:00", 1795246200000),
        ("2026-11-21 07:30", 1795246200000),
    ],
)
def test_a_place_is_a_word_or_a_time(text: str, at: int | None) -> None:
    assert Beginning.parse(text).at == at


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="neither earliest, latest, nor a time"):
        Beginning.parse("yesterday")
