"""What the page on the ledger shows is what its application and the commands print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from tests.brokers import admin_client
from tests.docs.pages import ROOT, blocks_of
from tests.embedded import EmbeddedProcess

PAGE = ROOT / "docs" / "audit.md"
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z")


class Shop:
    """The page's application in a directory, on a broker."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        [shop] = [block for block in blocks_of(PAGE) if block.module == "shop"]
        (directory / "shop.py").write_text(shop.text)
        self.bootstrap = bootstrap
        self._directory = directory

    async def order(self, *orders: tuple[str, int]) -> None:
        """Publish orders, and let a worker process them in one batch."""
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for customer, cents in orders:
                await producer.send(
                    "orders", str(cents).encode(), key=customer.encode(), partition=0
                )
        self.run("worker", "--once", "--name", "ada")

    def run(self, *arguments: str) -> str:
        """`streamapp -A shop …`; return what it prints, times taken out."""
        done = subprocess.run(
            [sys.executable, "-m", "streamapp", "-A", "shop", *arguments],
            cwd=self._directory,
            env={**os.environ, "STREAMAPP_BROKER": f"kafka://{self.bootstrap}"},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        return _TIME.sub("TIME", done.stdout)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """The page's application, on a broker of its own: the names in it are everybody's."""
    with EmbeddedProcess() as broker:
        yield Shop(tmp_path, broker.bootstrap)


@pytest.mark.broker
async def test_the_audit_and_the_replay_that_are_shown_are_what_is_printed(shop: Shop) -> None:
    audit, replay = [
        _TIME.sub("TIME", block.text) for block in blocks_of(PAGE) if not block.language
    ]
    kept = {"cleanup.policy": "compact", "min.compaction.lag.ms": "86400000"}
    async with admin_client(shop.bootstrap) as admin:
        await admin.create_topics(
            [NewTopic("orders", 2, 1), NewTopic("shop-spent-changelog", 2, 1, topic_configs=kept)]
        )
    await shop.order(("ada", 5), ("bob", 7), ("ada", 1), ("cyd", 2), ("bob", 3))
    await shop.order(("ada", 9), ("bob", 4))

    assert shop.run("audit") == audit
    assert shop.run("replay", "orders:0:5-7", "--agent", "add_up") == replay
