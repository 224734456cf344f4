"""What the README tells a newcomer to type does what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks_of
from tests.embedded import EmbeddedProcess
from tests.engine.workers import read_all
from tests.polling import eventually

README = ROOT / "README.md"


class Checkout:
    """A copy of what a newcomer works in, on a broker, with the README's agent in it."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        for package in ("streamapp", "agents", "tables"):
            shutil.copytree(ROOT / package, directory / package)
        [agent] = [block for block in blocks_of(README) if block.module == "agents.visits"]
        (directory / "agents" / "visits.py").write_text(agent.text)
        self.directory = directory
        self.bootstrap = bootstrap
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(directory),
            "STREAMAPP_BROKER": f"kafka://{bootstrap}",
        }
        self._log = directory / "worker.log"
        self._worker: subprocess.Popen[bytes] | None = None

    def visits(self, *lines: str) -> None:
        """Append to the file of visits, and publish it."""
        with (self.directory / "visits.txt").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        command = ["streamapp", "ingest", "file", "visits.txt", "--topic", "visits"]
        command += ["--key", r"^\w+", "--bootstrap", self.bootstrap]
        subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env=self._environment,
            check=True,
        )

    def start_worker(self) -> None:
        """`faust -A streamapp worker --name ada`."""
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "faust", "-A", "streamapp", "worker", "--name", "ada"],
                cwd=self.directory,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill_worker(self) -> None:
        """`kill -9`."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            self._worker = None

    def printed(self) -> set[str]:
        """What the agent of the README has printed since the worker was started."""
        text = self._log.read_text(errors="replace")
        return {
            line[line.index("visits:") :].strip() for line in text.splitlines() if "visits:" in line
        }


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """The README's checkout, on a broker of its own: the names in it are everybody's."""
    with EmbeddedProcess() as broker:
        made = Checkout(tmp_path, broker.bootstrap)
        yield made
        made.kill_worker()


@pytest.mark.broker
@pytest.mark.parametrize("disk", ["kept", "lost"])
async def test_the_readmes_agent_counts_on_after_kill_9(checkout: Checkout, disk: str) -> None:
    before, after = [
        set(block.text.splitlines())
        for block in blocks_of(README)
        if block.text.startswith("visits:")
    ]
    checkout.start_worker()
    checkout.visits("ada /", "bob /about", "ada /shop")
    await eventually(lambda: checkout.printed() == before)
    await eventually(lambda: totals_are(checkout, ("ada", 1), ("ada", 2), ("bob", 1)))

    checkout.kill_worker()
    if disk == "lost":
        shutil.rmtree(checkout.directory / ".streamapp" / "state")
    checkout.visits("ada /cart", "cyd /")
    checkout.start_worker()

    await eventually(lambda: checkout.printed() == after)
    await eventually(
        lambda: totals_are(checkout, ("ada", 1), ("ada", 2), ("ada", 3), ("bob", 1), ("cyd", 1))
    )


async def totals_are(checkout: Checkout, *expected: tuple[str, int]) -> bool:
    """Whether the agent has published these totals, and no other, in committed transactions."""
    records = await read_all(checkout.bootstrap, "visit-totals")
    return sorted((record.key.decode(), int(record.value)) for record in records) == [*expected]
