"""A renamed topology is refused, with the command that takes its state along; and that does."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from streamapp import App, Batch, Batches
from streamapp.errors import ConfigurationError
from streamapp.faults import inject
from streamapp.ledger import audit
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.rendering import audit_text
from streamapp.lifecycle import LifecycleError
from streamapp.lifecycle.rename import Rename
from tests.brokers import admin_client
from tests.engine.running import run_once
from tests.engine.workers import partitions_of, read_table
from tests.ledger.shop import Shop

ORDERS = [("ada", 5), ("bob", 7), ("ada", 1)]
REFUSED = (
    r"the topology add_up has no checkpoint, and sum_up, .* tables spent: .*"
    r"streamapp migrate rename sum_up add_up; or begin anew, .*: streamapp reset add_up$"
)


class Interrupted(Exception):
    """The command was killed here."""


def sum_up(shop: Shop, tables: bool = True) -> App:
    """The shop as it was, under the old name."""
    app = App(
        shop.app.conf.id,
        broker=f"kafka://{shop.kafka.bootstrap}",
        state_dir=str(shop.state),
        autodiscover=False,
        topic_partitions=2,
        engine={"replication": 1, "session_timeout": 6.0, "heartbeat_interval": 0.5},
    )
    orders = app.topic(shop.orders, key_type=str, value_type=int)
    spent = app.BatchTable(
        "spent" if tables else "other", default=int, key_type=str, value_type=int
    )

    @app.batch_agent(orders, within=0.02, max_records=5)
    async def sum_up(batches: Batches) -> None:
        async for batch in batches:
            for customer, cents in batch.items():
                spent[customer] += cents

    return app


async def spent(shop: Shop) -> dict[bytes, bytes]:
    return await read_table(shop.kafka.bootstrap, shop.topology.changelog("spent"))


async def rename(shop: Shop) -> None:
    async with LedgerReader(shop.app.kafka_options()) as reader:
        await Rename(shop.app, reader, "sum_up", shop.topology).run()


async def test_it_goes_on_from_the_old_state(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(sum_up(shop))
    with pytest.raises(ConfigurationError, match=REFUSED):
        await run_once(shop.again())
    await rename(shop)
    await shop.order([("ada", 4)])
    await run_once(shop.again())
    assert await spent(shop) == {b"ada": b"10", b"bob": b"7"}
    found = await audit(shop.app.kafka_options(), shop.app.topologies())
    assert found.well
    assert found.partitions[0].found_resets[0].jump.why == "renamed from sum_up"
    async with admin_client(shop.kafka.bootstrap) as admin:
        assert f"{shop.app.conf.id}-sum_up-checkpoint" not in await admin.list_topics()


async def test_one_that_is_named_back_has_a_ledger_that_is_well(shop: Shop) -> None:
    """What is between the entries of its first life and of its second is in the ledger of the other name."""
    old = sum_up(shop)
    [before] = old.topologies()
    await shop.order(ORDERS)
    await run_once(old)
    await rename(shop)
    await shop.order(ORDERS)
    await run_once(shop.again())
    async with LedgerReader(shop.app.kafka_options()) as reader:
        await Rename(old, reader, "add_up", before).run()
    await shop.order([("ada", 4)])
    await run_once(sum_up(shop))
    assert await spent(shop) == {b"ada": b"16", b"bob": b"14"}
    found = await audit(old.kafka_options(), old.topologies())
    assert found.well, audit_text(found)
    assert found.partitions[0].resets == 1


async def test_one_whose_source_grew_is_refused(shop: Shop) -> None:
    """Its changelog would grow with it, and keys go elsewhere than their state is."""
    await shop.order(ORDERS)
    await run_once(sum_up(shop))
    async with admin_client(shop.kafka.bootstrap) as admin:
        await admin.create_partitions({shop.orders: NewPartitions(3)})
    with pytest.raises(
        LifecycleError, match="sum_up has 2 tasks, and the sources of add_up have 3"
    ):
        await rename(shop)
    changelog = shop.topology.changelog("spent")
    assert len(await partitions_of(shop.kafka.bootstrap, changelog)) == 2


async def test_a_topic_that_is_not_deleted_is_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.order(ORDERS)
    await run_once(sum_up(shop))

    async def refused(admin: Any, names: list[str]) -> Any:
        del admin
        return SimpleNamespace(topic_error_codes=[(name, 29) for name in names])

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaAdminClient, "delete_topics", refused)
        with pytest.raises(LifecycleError, match=r"checkpoint.*does not delete it.*Authorization"):
            await rename(shop)
    await rename(shop)
    await run_once(shop.again())
    assert await spent(shop) == {b"ada": b"6", b"bob": b"7"}


async def test_one_that_is_interrupted_is_refused_and_ends_when_it_is_run_again(shop: Shop) -> None:
    await shop.order(ORDERS)
    await shop.order(ORDERS, partition=1)
    await run_once(sum_up(shop))

    def interrupt() -> None:
        raise Interrupted

    with inject("rename.moved", interrupt), pytest.raises(Interrupted):
        await rename(shop)
    with pytest.raises(ConfigurationError, match=REFUSED):
        await run_once(shop.again())
    await rename(shop)
    await shop.order([("cyd", 4)])
    await run_once(shop.again())
    async with LedgerReader(shop.app.kafka_options()) as reader:
        standing = await reader.standing(shop.topology)
    assert {p: m.sources[shop.orders] for p, m in standing.markers.items()} == {0: 4, 1: 3}
    assert (await audit(shop.app.kafka_options(), shop.app.topologies())).well


async def test_to_begin_anew_on_purpose_is_a_reset_of_the_new_name(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(sum_up(shop))
    done = shop.command("reset", "add_up", "--to", "latest", "--yes")
    assert done.returncode == 0, done.stderr
    await shop.order([("ada", 4)])
    await run_once(shop.again())
    assert await spent(shop) == {b"ada": b"4"}


async def test_a_topology_with_other_tables_is_another_one(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(sum_up(shop, tables=False))
    await run_once(shop.again())
    assert await spent(shop) == {b"ada": b"6", b"bob": b"7"}


async def test_the_command(shop: Shop) -> None:
    await shop.order(ORDERS)
    await run_once(sum_up(shop))
    dry = shop.command("migrate", "rename", "sum_up", "add_up", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout) == {
        "done": False,
        "old": "sum_up",
        "new": "add_up",
        "tasks": 2,
        "offsets": {f"{shop.orders}:0": 3},
    }
    done = shop.command("migrate", "rename", "sum_up", "add_up")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done: start the workers of add_up\n")
    again = shop.command("migrate", "rename", "sum_up", "add_up")
    assert again.returncode == 1
    assert "the topology sum_up has left no checkpoint" in again.stderr


async def test_a_foreach_batch_keeps_its_name(shop: Shop) -> None:
    """What it has announced, and what the outside system remembers, is by that name."""
    orders = shop.app.topic(shop.orders, key_type=str, value_type=int)

    @shop.app.foreach_batch(orders)
    async def to_database(batch: Batch) -> None:
        raise AssertionError("it is not run")

    [_, topology] = shop.app.topologies()
    async with LedgerReader(shop.app.kafka_options()) as reader:
        with pytest.raises(LifecycleError, match=r"knows its batches by its name\. Keep the name"):
            await Rename(shop.app, reader, "to_file", topology).plan()


def forwarding(shop: Shop, app_id: str, topology: str) -> App:
    """An application that keeps no tables."""
    app = App(
        app_id,
        broker=f"kafka://{shop.kafka.bootstrap}",
        state_dir=str(shop.state / app_id),
        autodiscover=False,
        topic_partitions=2,
        engine={"replication": 1, "session_timeout": 6.0, "heartbeat_interval": 0.5},
    )

    @app.batch_agent(app.topic(shop.orders, value_type=int), within=0.02, topology=topology)
    async def forward(batches: Batches) -> None:
        async for _ in batches:
            pass

    return app


async def test_an_application_with_a_longer_name_is_another_one(shop: Shop) -> None:
    """Its checkpoints are in a topic that this one's topology eu-forward would have."""
    await shop.order(ORDERS)
    await run_once(forwarding(shop, f"{shop.app.conf.id}-eu", "forward"))
    app = forwarding(shop, shop.app.conf.id, "route")
    async with LedgerReader(app.kafka_options()) as reader:
        with pytest.raises(LifecycleError, match="another application"):
            await Rename(app, reader, "eu-forward", app.topologies()[0]).run()
    await run_once(app)
    renamed = forwarding(shop, shop.app.conf.id, "on")
    with pytest.raises(ConfigurationError, match="streamapp migrate rename route on"):
        await run_once(renamed)
