"""An application for the tests of the ledger's commands: in the test's process, or by `-A tests.ledger.shop`.

It counts orders by customer in a plain table, and says each new total.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from aiokafka import AIOKafkaProducer

from streamapp import App, Batches
from streamapp.engine.topology import Topology
from tests.brokers import BrokerUnderTest

__all__ = ["Shop", "build", "make_changelog"]

_PREFIX = "STREAMAPP_TEST_PREFIX"
_BOOTSTRAP = "STREAMAPP_TEST_BOOTSTRAP"
_STATE = "STREAMAPP_TEST_STATE"


def build(prefix: str, bootstrap: str, state: str, guarantee: str = "exactly_once") -> App:
    """Declare the application under a prefix of names."""
    app = App(
        f"{prefix}shop",
        broker=f"kafka://{bootstrap}",
        processing_guarantee=guarantee,
        state_dir=state,
        autodiscover=False,
        topic_partitions=2,
        engine={"replication": 1, "session_timeout": 6.0, "heartbeat_interval": 0.5},
    )
    orders = app.topic(f"{prefix}orders", key_type=str, value_type=int)
    totals = app.topic(f"{prefix}totals", key_type=str, value_type=int)
    spent = app.BatchTable("spent", default=int, key_type=str, value_type=int)

    @app.batch_agent(orders, within=0.02, max_records=5)
    async def add_up(batches: Batches) -> None:
        async for batch in batches:
            for customer, cents in batch.items():
                spent[customer] += cents
                await totals.send(key=customer, value=spent[customer])
            print(f"{batch.id} of {len(batch)} orders")

    return app


async def make_changelog(
    kafka: BrokerUnderTest, table: str, partitions: int, hours: float = 1.0
) -> None:
    """Make a changelog that is not compacted within some hours: the embedded broker is quick to."""
    await kafka.create_topic(
        f"{table}-changelog",
        partitions,
        cleanup_policy="compact",
        min_cleanable_dirty_ratio=0.01,
        min_compaction_lag_ms=round(hours * 3_600_000),
    )


class Shop:
    """The application on the broker under test, and its commands."""

    def __init__(
        self, kafka: BrokerUnderTest, state: Path, guarantee: str = "exactly_once"
    ) -> None:
        self.kafka = kafka
        self.orders = f"{kafka.prefix}orders"
        self.state = state
        self.guarantee = guarantee
        self.app = self.again()

    def again(self) -> App:
        """Declare the application anew, as a worker that starts does."""
        return build(self.kafka.prefix, self.kafka.bootstrap, str(self.state), self.guarantee)

    @property
    def topology(self) -> Topology:
        """Its one topology."""
        [found] = self.app.topologies()
        return found

    async def order(self, customers: Iterable[tuple[str, int]], partition: int = 0) -> None:
        """Publish orders, each in a record batch of its own."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap) as producer:
            for customer, cents in customers:
                await producer.send_and_wait(
                    self.orders, str(cents).encode(), key=customer.encode(), partition=partition
                )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `streamapp -A … COMMAND` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "streamapp", "-A", "tests.ledger.shop", *arguments],
            env={
                **os.environ,
                _PREFIX: self.kafka.prefix,
                _BOOTSTRAP: self.kafka.bootstrap,
                _STATE: str(self.state),
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


if _PREFIX in os.environ and "tests.engine.jobs" not in sys.modules:
    app = build(os.environ[_PREFIX], os.environ[_BOOTSTRAP], os.environ[_STATE])
