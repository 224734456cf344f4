"""Workers killed while they copy stores to snapshots, or back: what is counted is right all the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import BrokerUnderTest
from tests.engine.oracle import check_outputs, check_state, check_stores, make_events
from tests.engine.workers import Cluster, produce
from tests.polling import eventually


@pytest.fixture
def cluster(kafka: BrokerUnderTest, tmp_path: Path) -> Iterator[Cluster]:
    """Workers that take snapshots several times a second, killed at the end."""
    place = str(tmp_path / "far")
    running = Cluster(kafka, "exactly_once", tmp_path, STREAMAPP_TEST_SNAPSHOTS=place)
    yield running
    running.stop()


def snapshots(directory: Path) -> int:
    """How many of the four tasks of the first topology have a whole snapshot of some checkpoint."""
    found = set()
    for path in directory.glob("far/v1/*/*/count/*/*.json"):
        with contextlib.suppress(FileNotFoundError):  # another one came after it
            raw = path.read_bytes()
            if hashlib.sha256(raw).hexdigest() == path.stem and json.loads(raw)["sequence"]:
                found.add(path.parent.name)
    return len(found)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("checkpointed:3", marks=pytest.mark.slow),
        "file-uploaded:20",
        "before-manifest:3",
        pytest.param("after-manifest:5", marks=pytest.mark.slow),
        "file-downloaded:8",
        "before-rename:2",
    ],
)
async def test_a_kill_in_the_middle_of_a_copy_changes_nothing(
    cluster: Cluster, tmp_path: Path, point: str
) -> None:
    kafka = cluster.kafka
    events = make_events(600, seed=1)
    await kafka.create_topic("in", partitions=4)
    await produce(kafka, events[:200])
    fetching = "download" in point or "rename" in point
    worker = cluster.start(name="a", fault=None if fetching else f"snapshot.{point}")
    if fetching:
        await eventually(lambda: snapshots(tmp_path) == 4)
        worker.kill()
        shutil.rmtree(cluster.state)
        worker = cluster.start(name="a", fault=f"snapshot.{point}")
    await produce(kafka, events[200:400])
    await eventually(lambda: not worker.running)
    assert worker.wait() == -9, worker.tail()

    worker = cluster.start(name="a")
    await eventually(lambda: snapshots(tmp_path) == 4)
    worker.kill()
    shutil.rmtree(cluster.state)
    await produce(kafka, events[400:])
    cluster.finish()

    assert cluster.workers[-1].said("begins with its snapshot") >= 4
    await check_outputs(kafka, events)
    await check_state(kafka, events)
    check_stores(cluster, events)
    assert not list(cluster.state.glob("*/a/*/*.download.*"))
