"""The topics of an application: what is asked of the broker, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamapp import App, Batches
from streamapp.broker import Broker
from streamapp.errors import TopicError
from tests.brokers import BrokerUnderTest
from tests.engine.running import make_app, running


def counting(kafka: BrokerUnderTest, state: Path, partitions: int = 1) -> App:
    """An application that counts words."""
    app = make_app(kafka, state)
    source = app.topic(kafka.topic("in"), value_type=str, partitions=partitions)
    counts = app.BatchTable("counts", default=int, key_type=str)

    @app.batch_agent(source)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    return app


async def test_a_broker_that_makes_topics_on_demand_is_never_asked_for_one(tmp_path: Path) -> None:
    # auto.create.topics.enable is Kafka's default: what it makes has one partition and deletes by age.
    async with Broker(port=0, auto_create=True) as broker:
        kafka = BrokerUnderTest(broker.bootstrap, "embedded", "demanding-")
        async with running(counting(kafka, tmp_path, partitions=3)) as engine:
            partitions = engine.groups[0].surroundings.partitions
            assert {n for n, c in partitions.items() if c == 3} >= {
                "demanding-in",
                "demanding-app-counts-changelog",
                "demanding-app-count-checkpoint",
            }


@pytest.mark.parametrize("topic", ["counts-changelog", "count-checkpoint"])
async def test_state_in_a_topic_that_forgets_is_refused_with_the_command(
    kafka: BrokerUnderTest, tmp_path: Path, topic: str
) -> None:
    app = counting(kafka, tmp_path)
    await kafka.create_topic(f"{app.conf.id}-{topic}", partitions=1, cleanup_policy="delete")
    with pytest.raises(TopicError, match=rf"{topic}.*cleanup\.policy=delete.*kafka-configs\.sh"):
        async with running(app):
            pass
