"""The application of the page for Faust's users: its own agents and ours, on one topic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from tests.brokers import admin_client
from tests.docs.pages import ROOT, blocks_of
from tests.embedded import EmbeddedProcess
from tests.polling import eventually

PAGE = ROOT / "docs" / "from-faust.md"


class Shop:
    """The page's application in a directory, on a broker."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        [shop] = [block for block in blocks_of(PAGE) if block.module == "shop"]
        (directory / "shop.py").write_text(shop.text)
        self.bootstrap = bootstrap
        self._directory = directory
        self._log = directory / "log"

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """`faust -A shop COMMAND`."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "faust", "-A", "shop", command],
                cwd=self._directory,
                env={**os.environ, "STREAMAPP_BROKER": f"kafka://{self.bootstrap}"},
                stdout=log,
                stderr=log,
            )

    def says(self, text: str) -> bool:
        """Whether its log has a text."""
        return text in self._log.read_text(errors="replace")


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The page's application, with a worker that is stopped as an operator would."""
    with EmbeddedProcess() as broker:
        made = Shop(tmp_path, broker.bootstrap)
        # Faust's consumer looks away for minutes from a topic that is missing when it subscribes.
        async with admin_client(broker.bootstrap) as admin:
            await admin.create_topics([NewTopic("orders", 1, 1)])
        worker = made.start("worker")
        # Until then, a signal ends it as it ends any process.
        await eventually(lambda: made.says("worker worker-0 runs"))
        yield made
        worker.terminate()
        assert worker.wait(60) == 0


@pytest.mark.broker
async def test_fausts_agents_tables_and_timers_run_beside_batch_agents(shop: Shop) -> None:
    async with AIOKafkaProducer(bootstrap_servers=shop.bootstrap) as producer:
        for cents in (b"250", b"100"):
            await producer.send_and_wait("orders", cents, key=b"ada")

    await eventually(lambda: shop.says("Faust: order 2 of ada, 100 cents"))
    await eventually(lambda: shop.says("streamapp: ada has spent 350 cents"))
    await eventually(lambda: shop.says("Faust: a second has passed"))


@pytest.mark.broker
async def test_fausts_commands_are_commands(shop: Shop) -> None:
    assert shop.start("greet").wait(60) == 0
    assert shop.says("Faust: hello")
