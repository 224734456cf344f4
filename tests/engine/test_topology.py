"""What follows from the agents' declarations: topologies, their names, and what is refused."""

from __future__ import annotations

import pytest

from streamapp import App, Batches, Count
from streamapp.engine.topology import Topology
from streamapp.errors import ConfigurationError
from tests.engine.tasks import an_app


@pytest.fixture
def app() -> App:
    return an_app("shop")


async def nothing(batches: Batches) -> None:
    async for _ in batches:
        pass


def topology_of(app: App) -> Topology:
    (topology,) = app.topologies()
    return topology


def test_an_agent_is_a_topology_of_its_own_under_its_own_name(app: App) -> None:
    app.batch_agent(app.topic("orders"), name="count")(nothing)
    app.batch_agent(app.topic("orders"), name="watch")(nothing)
    assert [topology.name for topology in app.topologies()] == ["count", "watch"]


def test_everything_is_named_after_application_and_topology(app: App) -> None:
    app.batch_agent(app.topic("orders"), name="count")(nothing)
    topology = topology_of(app)
    assert topology.group == "shop-count"
    assert topology.checkpoint_topic == "shop-count-checkpoint"
    assert topology.ledger_topic == "shop-count-ledger"
    assert topology.transactional_id(3) == "shop-count-3"
    assert topology.changelog("totals") == "shop-totals-changelog"


def test_agents_that_name_one_topology_share_it_and_its_tables(app: App) -> None:
    totals = app.BatchTable("totals", default=int)
    more = app.BatchTable("more", default=int)
    orders, returns = app.topic("orders"), app.topic("returns")
    app.batch_agent(orders, name="a", topology="t", uses=[totals, more], within=2.0)(nothing)
    app.batch_agent(returns, name="b", topology="t", uses=[totals], max_records=5)(nothing)
    topology = topology_of(app)
    assert [agent.name for agent in topology.agents] == ["a", "b"]
    assert topology.tables == (more, totals)
    assert topology.sources == (orders, returns)
    assert (topology.within, topology.max_records) == (1.0, 5)


def test_a_table_of_two_topologies_is_refused_with_what_to_write(app: App) -> None:
    totals = app.BatchTable("totals", default=int)
    app.batch_agent(app.topic("orders"), name="a", uses=[totals])(nothing)
    app.batch_agent(app.topic("orders"), name="b", uses=[totals])(nothing)
    with pytest.raises(
        ConfigurationError, match=r"'a' and 'b' share the table 'totals'.*topology='b'"
    ):
        app.topologies()


@pytest.mark.parametrize("name", ["a/b", "", "..", "ä", "x" * 201])
def test_a_name_that_no_topic_can_have_is_refused(app: App, name: str) -> None:
    app.batch_agent(app.topic("orders"), topology=name or " ")(nothing)
    with pytest.raises(ConfigurationError, match="part of its topics'"):
        app.topologies()


def test_a_source_is_one_topic(app: App) -> None:
    app.batch_agent(app.topic("a", "b"), name="two")(nothing)
    with pytest.raises(ConfigurationError, match="one topic by name"):
        _ = topology_of(app).sources


def test_event_time_matters_to_windows_and_to_what_is_sent_on(app: App) -> None:
    plain = app.BatchTable("plain", default=int)
    windowed = app.BatchTable("windowed", aggregate=Count()).tumbling(10)
    by_key = app.key_by("k")
    app.batch_agent(app.topic("a"), name="plain", uses=[plain])(nothing)
    app.batch_agent(app.topic("a"), name="windowed", uses=[windowed])(nothing)
    app.batch_agent(app.topic("a"), name="sends", uses=[by_key])(nothing)
    app.batch_agent(by_key, name="reads")(nothing)
    assert {t.name: t.windowed for t in app.topologies()} == {
        "plain": False,
        "windowed": True,
        "sends": True,
        "reads": False,
    }


def test_outputs_are_sinks_used_topics_and_where_windows_go(app: App) -> None:
    sink, used, final, late = (app.topic(name) for name in ("sink", "used", "final", "late"))
    table = app.BatchTable("t", aggregate=Count()).tumbling(10).emit_final(final).late_to(late)
    by_key = app.key_by("k")

    async def yields(batches: Batches):  # type: ignore[no-untyped-def]
        async for batch in batches:
            yield len(batch)

    app.batch_agent(app.topic("a"), name="a", sink=sink, uses=[used, table, by_key])(yields)
    app.batch_agent(by_key, name="b")(nothing)
    assert set(app.topologies()[0].outputs) == {"sink", "used", "final", "late"}


def test_a_topology_knows_who_feeds_its_repartition_topic(app: App) -> None:
    by_key = app.key_by("k")
    app.batch_agent(app.topic("a"), name="first", uses=[by_key])(nothing)
    app.batch_agent(app.topic("b"), name="second", uses=[by_key])(nothing)
    app.batch_agent(by_key, name="reads")(nothing)
    reads = app.topologies()[2]
    assert [upstream.name for upstream in reads.feeds["shop-k-by-key"]] == ["first", "second"]


def test_a_key_by_that_nobody_reads_is_refused(app: App) -> None:
    by_key = app.key_by("k")
    app.batch_agent(app.topic("a"), name="sends", uses=[by_key])(nothing)
    with pytest.raises(ConfigurationError, match="shop-k-by-key, and no batch agent reads it"):
        app.topologies()


@pytest.mark.parametrize("through", ["itself", "another"])
def test_windows_that_would_wait_for_their_own_watermark_are_refused(
    app: App, through: str
) -> None:
    """A topology's watermark is the least of its sources'; its own would never come."""
    there, back = app.key_by("there"), app.key_by("back")
    windowed = app.BatchTable("windowed", aggregate=Count()).tumbling(10)
    app.batch_agent(app.topic("a"), name="begin", topology="one", uses=[there])(nothing)
    other = "one" if through == "itself" else "two"
    app.batch_agent(there, name="middle", topology=other, uses=[back, windowed])(nothing)
    app.batch_agent(back, name="end", topology="one")(nothing)
    with pytest.raises(ConfigurationError, match="windows of windowed would wait for themselves"):
        app.topologies()


def test_agents_without_windows_may_feed_themselves(app: App) -> None:
    again = app.key_by("again")
    app.batch_agent(app.topic("a"), name="begin", topology="one", uses=[again])(nothing)
    app.batch_agent(again, name="go-on", topology="one", uses=[again])(nothing)
    assert len(app.topologies()) == 1
