"""Snapshots of stores: taken between checkpoints, believed only as far as they can be."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamapp import Batches
from streamapp.engine import snapshots
from streamapp.engine.attended import Abandoned, Stalled
from streamapp.engine.copies import Span
from streamapp.engine.marker import Marker, Progress, encode
from streamapp.engine.snapshot_archive import Manifest, SnapshotArchive, SnapshotPlace
from streamapp.engine.snapshots import Snapshots
from streamapp.engine.stores import TaskStores, progress_of
from streamapp.errors import ConfigurationError, StoreError
from streamapp.faults import inject
from streamapp.state.store import TableWrites
from tests.brokers import BrokerUnderTest
from tests.engine.running import run_once, running
from tests.engine.tasks import MEMORY, an_app
from tests.engine.test_engine import publish
from tests.engine.test_recovery import counting, opened, table_of
from tests.polling import eventually

HOUR = 3_600_000
#: How long the changelogs keep deletes.
KEPT = 24 * HOUR
#: Where a marker and changelogs are that every snapshot of these tests fits.
MARKER, SPANS = Marker(sequence=1_000), {"t": Span(0, 1_000)}


class Host:
    """A worker with a disk of its own; its checkpoints write one record of one table each."""

    def __init__(self, disk: Path, url: str, cluster: str = "here") -> None:
        self.now = round(time.time() * 1000)
        self.disk = disk
        self.incarnation = ""
        self.tables: dict[str, str] = {}
        app = an_app("shop")

        @app.batch_agent(app.topic("in", value_type=bytes))
        async def count(batches: Batches) -> None:
            async for _ in batches:
                pass

        [topology] = app.topologies()
        self.stores = TaskStores(topology, disk, MEMORY, cluster, KEPT, lambda: self.now)
        self.snapshots = Snapshots(
            SnapshotPlace(url), topology, self.stores, cluster, lambda: self.now
        )
        self.stores.survey()

    @property
    def archive(self) -> SnapshotArchive:
        return self.snapshots.archive(0)

    async def checkpoint(self, sequence: int) -> None:
        """Write the next checkpoint."""
        progress = Progress(
            marker=Marker(incarnation=self.incarnation, sequence=sequence, tables=self.tables),
            positions={"t": sequence},
            at=self.now,
        )
        writes = TableWrites("t", [(b"%d" % sequence, b"v" * 100)])
        store = await self.stores.open(0)
        store.write([writes], encode(progress))
        self.now += 1

    async def snapshot(self, sequence: int) -> None:
        """Write the next checkpoint, and take a snapshot of it."""
        await self.checkpoint(sequence)
        assert await self.snapshots.take(0)

    async def fetched(
        self, marker: Marker = MARKER, spans: Mapping[str, Span] = SPANS
    ) -> int | None:
        """Open the store, which is not there, and fetch a snapshot; return its checkpoint."""
        empty = await self.stores.open(0)
        assert empty.progress is None
        store = await self.snapshots.fetch(0, marker, spans)
        assert self.stores.opened(0) is store
        progress = progress_of(store)
        if progress is None:
            return None
        sequence = progress.marker.sequence
        assert store.get(b"t\0%d" % sequence) == b"v" * 100
        return sequence

    def left_behind(self) -> list[str]:
        """What lies beside the store."""
        return [path.name for path in (self.disk / "count").iterdir() if path.name != "0"]


@pytest.fixture(params=["directory", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "far") if request.param == "directory" else f"memory://{uuid.uuid4()}"


@pytest.fixture
def host(tmp_path: Path, url: str) -> Host:
    return Host(tmp_path / "a", url)


@pytest.fixture
def other(tmp_path: Path, url: str, host: Host) -> Host:
    """Another worker, whose disk is empty."""
    return Host(tmp_path / "b", url)


async def test_a_store_that_is_gone_is_fetched(host: Host, other: Host) -> None:
    await host.snapshot(1)
    await host.snapshot(2)
    await host.checkpoint(3)

    assert await other.fetched() == 2
    assert other.left_behind() == host.left_behind() == []
    await other.checkpoint(4)


async def test_a_store_is_fetched_from_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Against moto's server: `make test-s3` has that and s3fs, which are large, and need other versions."""
    if os.environ.get("STREAMAPP_REQUIRE_S3") != "1":
        pytest.importorskip("s3fs", reason="make test-s3 tries this")
        pytest.importorskip("moto.server", reason="make test-s3 tries this")
    server = importlib.import_module("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "anything")
        SnapshotPlace("s3://bucket")._filesystem.mkdir("bucket")
        first = Host(tmp_path / "a", "s3://bucket/streams")
        for sequence in (1, 2, 3):
            await first.snapshot(sequence)
        assert await Host(tmp_path / "b", "s3://bucket/streams").fetched() == 3
        damage_file(first.archive, first.archive.manifests()[0])
        assert await Host(tmp_path / "c", "s3://bucket/streams").fetched() == 2
        assert "is damaged" in caplog.text
        first.now += 2 * HOUR
        await first.snapshot(4)
        assert [manifest.sequence for manifest in first.archive.manifests()] == [4, 3]
    finally:
        server.stop()


async def test_without_a_snapshot_the_store_stays_as_it_is(host: Host) -> None:
    assert await host.fetched() is None


async def test_nothing_is_copied_while_nothing_changes(host: Host, other: Host) -> None:
    await host.stores.open(0)
    assert not await host.snapshots.take(0)
    await host.snapshot(1)
    assert not await host.snapshots.take(0)
    host.stores.close(0)
    assert not await host.snapshots.take(0)

    assert await other.fetched() == 1
    assert await other.snapshots.take(0)
    assert len(host.archive.manifests()) == 1


def written(directory: Path, **files: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def about(sequence: int, now: int = 0) -> Manifest:
    return Manifest(owner="me", sequence=sequence, positions={}, at=0, taken=now + sequence)


def test_files_that_are_there_already_are_not_sent_again(url: str, tmp_path: Path) -> None:
    archive = SnapshotPlace(url).archive("task")
    store = written(tmp_path / "store", a=b"a" * 1000, b=b"b" * 100)
    assert archive.upload(store, about(1), lambda: None).size == 1100
    written(store, c=b"c" * 10)
    assert archive.upload(store, about(2), lambda: None).size == 10
    # A worker that was started again knows of nothing but what is there.
    written(store, b=b"B" * 100)
    assert SnapshotPlace(url).archive("task").upload(store, about(3), lambda: None).size == 100

    # What is named and gone all the same is sent again.
    lost = next(file for file in archive.manifests()[0].files if file.name == "a")
    archive._filesystem.rm_file(f"{archive.directory}/files/{lost.digest}")
    assert archive.upload(store, about(4), lambda: None).size == 1000

    into = tmp_path / "into"
    archive.download(archive.manifests()[0], into, lambda: None)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        "a": b"a" * 1000,
        "b": b"B" * 100,
        "c": b"c" * 10,
    }


def test_a_snapshot_is_not_removed_for_one_that_a_faster_clock_has_taken(
    url: str, tmp_path: Path
) -> None:
    archive = SnapshotPlace(url).archive("task")
    now = round(time.time() * 1000)
    for sequence, taken in ((7, now + HOUR), (8, now + HOUR), (9, now)):
        archive.upload(written(tmp_path / "store"), about(sequence, taken), lambda: None)
    assert [manifest.sequence for manifest in archive.manifests()] == [9, 8]

    # A state that was begun anew, and its topics with it, counts from one again.
    anew = msgspec.structs.replace(about(1, now), incarnation="another")
    archive.upload(written(tmp_path / "store"), anew, lambda: None)
    assert [manifest.sequence for manifest in archive.manifests()] == [9, 1]
    archive.upload(
        written(tmp_path / "store"), msgspec.structs.replace(anew, sequence=2), lambda: None
    )
    assert [manifest.sequence for manifest in archive.manifests()] == [2, 1]


def test_the_last_two_are_kept_and_what_they_do_not_name_goes_after_an_hour(
    url: str, tmp_path: Path
) -> None:
    archive = SnapshotPlace(url).archive("task")
    now = round(time.time() * 1000)
    for sequence in (1, 2, 3):
        store = written(tmp_path / "store", a=b"%d" % sequence)
        archive.upload(store, about(sequence, now), lambda: None)
    assert [manifest.sequence for manifest in archive.manifests()] == [3, 2]
    assert files_of(archive) == 3

    store = written(tmp_path / "store", a=b"4")
    archive.upload(store, about(4, now + 2 * HOUR), lambda: None)
    assert [manifest.sequence for manifest in archive.manifests()] == [4, 3]
    assert files_of(archive) == 2


def files_of(archive: SnapshotArchive) -> int:
    return len(archive._filesystem.ls(f"{archive.directory}/files"))


def test_a_copy_that_nobody_waits_for_is_abandoned(url: str, tmp_path: Path) -> None:
    archive, gone = SnapshotPlace(url).archive("task"), threading.Event()

    def moved() -> None:
        if gone.is_set():
            raise Abandoned

    store = written(tmp_path / "store", a=b"1", b=b"2")
    with inject("snapshot.file-uploaded", gone.set), pytest.raises(Abandoned):
        archive.upload(store, about(1), moved)
    assert archive.manifests() == []
    gone.clear()
    archive.upload(store, about(1), moved)
    gone.set()
    with pytest.raises(Abandoned):
        archive.download(archive.manifests()[0], tmp_path / "into", moved)


def fail() -> None:
    raise OSError("the place is gone")


@pytest.mark.parametrize("point", ["checkpointed", "file-uploaded", "before-manifest"])
async def test_half_an_upload_is_no_snapshot(host: Host, other: Host, point: str) -> None:
    await host.snapshot(1)
    await host.checkpoint(2)
    with inject(f"snapshot.{point}", fail), pytest.raises(OSError, match="gone"):
        await host.snapshots.take(0)
    # What is left of a copy goes with the next start, at the latest.
    TaskStores(host.stores._topology, host.disk, MEMORY, "here").survey()
    assert host.left_behind() == []
    assert await other.fetched() == 1

    assert await host.snapshots.take(0)
    assert host.archive.manifests()[0].sequence == 2


@pytest.mark.parametrize("point", ["file-downloaded", "before-rename"])
async def test_half_a_download_is_no_store(host: Host, other: Host, point: str) -> None:
    await host.snapshot(1)
    with inject(f"snapshot.{point}", fail):
        if point == "before-rename":
            with pytest.raises(OSError, match="gone"):
                await other.fetched()
        else:
            assert await other.fetched() is None
    assert other.left_behind() == []
    await other.stores.close_all()
    shutil.rmtree(other.disk)
    assert await other.fetched() == 1


async def test_a_worker_that_stops_does_not_wait_for_a_download(host: Host, other: Host) -> None:
    await host.snapshot(1)
    reached, going_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        going_on.wait(60)

    with inject("snapshot.file-downloaded", hold):
        fetching = asyncio.create_task(other.fetched())
        await asyncio.to_thread(reached.wait, 60)
        fetching.cancel()
        await asyncio.wait({fetching})
        assert fetching.cancelled()
        going_on.set()
        await eventually(lambda: other.left_behind() == [])
    assert await other.fetched() == 1


def damage_file(archive: SnapshotArchive, manifest: Manifest) -> None:
    [table] = [file for file in manifest.files if file.name.startswith("MANIFEST")]
    archive._filesystem.pipe_file(f"{archive.directory}/files/{table.digest}", b"\0" * 100)


def flip_a_bit(archive: SnapshotArchive, manifest: Manifest) -> None:
    """In a table, where RocksDB would not see it before somebody reads that block."""
    table = max(
        (file for file in manifest.files if file.name.endswith(".sst")), key=lambda file: file.name
    )
    path = f"{archive.directory}/files/{table.digest}"
    raw = archive._filesystem.cat_file(path)
    archive._filesystem.pipe_file(path, bytes([raw[0] ^ 1]) + raw[1:])


def lose_file(archive: SnapshotArchive, manifest: Manifest) -> None:
    [table] = [file for file in manifest.files if file.name.startswith("MANIFEST")]
    archive._filesystem.rm_file(f"{archive.directory}/files/{table.digest}")


def damage_manifest(archive: SnapshotArchive, manifest: Manifest) -> None:
    """Write half of it."""
    for path in archive._filesystem.ls(archive.directory, detail=False):
        if path.endswith(".json"):
            raw = archive._filesystem.cat_file(path)
            if b'"sequence":%d,' % manifest.sequence in raw:
                archive._filesystem.pipe_file(path, raw[: len(raw) // 2])


@pytest.mark.parametrize("damage", [damage_file, flip_a_bit, lose_file, damage_manifest])
async def test_in_place_of_a_damaged_snapshot_the_one_before_is_fetched(
    host: Host,
    other: Host,
    url: str,
    tmp_path: Path,
    damage: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await host.snapshot(1)
    await host.snapshot(2)
    second, first = host.archive.manifests()
    damage(host.archive, second)
    assert await other.fetched() == 1
    assert "passing over" in caplog.text or "its snapshot after checkpoint 2" in caplog.text

    damage(host.archive, first)
    third = Host(tmp_path / "c", url)
    assert await third.fetched() is None
    assert third.left_behind() == []


async def test_a_snapshot_of_another_cluster_is_not_seen(
    host: Host, url: str, tmp_path: Path
) -> None:
    await host.snapshot(1)
    assert await Host(tmp_path / "b", url, "elsewhere").fetched() is None


@pytest.mark.parametrize(
    ("lie", "why"),
    [({"owner": "somebody"}, "it belongs to somebody"), ({"sequence": 3}, "of another checkpoint")],
    ids=["owner", "sequence"],
)
async def test_a_snapshot_that_is_not_what_it_says_is_not_used(
    host: Host,
    other: Host,
    tmp_path: Path,
    lie: dict[str, Any],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await host.snapshot(1)
    await host.snapshot(2)
    manifest = host.archive.manifests()[0]
    host.archive.download(manifest, tmp_path / "copy", lambda: None)
    lying = msgspec.structs.replace(manifest, positions={"t": 3}, taken=host.now + 1, **lie)
    host.archive.upload(tmp_path / "copy", lying, lambda: None)
    # Of the two that are kept, the other one is true.
    assert await other.fetched() == 2
    assert why in caplog.text


@pytest.mark.parametrize(
    ("marker", "spans"),
    [(Marker(sequence=1), SPANS), (MARKER, {"t": Span(0, 1)})],
    ids=["marker", "ends"],
)
async def test_a_snapshot_beyond_what_kafka_has_is_not_used(
    host: Host,
    other: Host,
    marker: Marker,
    spans: Mapping[str, Span],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await host.snapshot(1)
    await host.snapshot(2)
    assert await other.fetched(marker, spans) == 1
    assert "deleted and made anew since" in caplog.text


async def test_a_snapshot_of_a_state_that_was_begun_anew_is_not_used(
    host: Host, other: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """However far the new topics have come since."""
    host.incarnation = "first"
    await host.snapshot(1)
    host.incarnation = "second"
    await host.snapshot(1)
    other.incarnation = "second"
    second = msgspec.structs.replace(MARKER, incarnation="second")
    assert await other.fetched(second) == 1
    third = msgspec.structs.replace(MARKER, incarnation="third")
    await other.stores.close_all()
    shutil.rmtree(other.disk)
    assert await other.fetched(third) is None
    assert caplog.text.count("the state was begun anew since") == 2


async def test_a_snapshot_is_used_for_the_tables_that_are_the_same_still(
    host: Host, other: Host
) -> None:
    """One that came back ends before where the snapshot has its predecessor: it is read from its beginning."""
    host.incarnation, host.tables = "first", {"t": "one", "u": "same"}
    await host.snapshot(5)
    now = Marker(incarnation="first", sequence=1_000, tables={"t": "two", "u": "same"})
    assert await other.fetched(now, {"t": Span(0, 2), "u": Span(0, 9)}) == 5


async def test_a_snapshot_that_lacks_what_was_cut_is_not_used(
    host: Host, other: Host, caplog: pytest.LogCaptureFixture
) -> None:
    await host.snapshot(1)
    assert await other.fetched(spans={"t": Span(2, 1_000)}) is None
    assert "holds the changelog of t up to 1, and that begins at 2 by now" in caplog.text


async def test_a_task_that_has_nothing_to_do_has_a_young_snapshot_all_the_same(
    host: Host, other: Host
) -> None:
    await host.snapshot(1)
    for _ in range(2):
        host.now += KEPT // 3
        await host.checkpoint(1)  # as a task notes that it is up to date
        taken = await host.snapshots.take(0)
    assert taken
    host.now += 1
    assert not await host.snapshots.take(0)
    other.now = host.now + KEPT // 2
    assert await other.fetched() == 1


async def test_a_task_that_comes_from_another_host_takes_a_young_snapshot_in_time(
    host: Host, other: Host
) -> None:
    """It finds that one's there, which is older than its own would have been."""
    await host.snapshot(1)
    other.now = host.now + KEPT // 3
    await other.checkpoint(1)
    assert await other.snapshots.take(0)
    other.now += KEPT // 3
    await other.checkpoint(1)
    assert await other.snapshots.take(0)
    assert max(manifest.at for manifest in other.archive.manifests()) > host.now + KEPT // 2


async def test_a_snapshot_that_may_have_missed_deletes_is_not_used(
    host: Host, other: Host, caplog: pytest.LogCaptureFixture
) -> None:
    await host.snapshot(1)
    other.now = host.now + KEPT + 1
    assert await other.fetched() is None
    assert "older than its changelogs keep deletes" in caplog.text


async def test_a_place_that_does_not_answer_leaves_the_changelog(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host.archive, "manifests", fail)
    assert await host.fetched() is None
    assert "the changelog is restored: the place is gone" in caplog.text


@pytest.mark.parametrize("at", ["list", "download"])
async def test_a_place_that_hangs_leaves_the_changelog(
    host: Host,
    other: Host,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await host.snapshot(1)
    await host.snapshot(2)
    # Longer than listing takes, which does not hang in the other case.
    monkeypatch.setattr(snapshots, "FETCH_WITHIN", 1.0)
    going_on, asked = threading.Event(), []

    def hang(*_: Any) -> Any:
        asked.append(at)
        going_on.wait(60)
        raise OSError("at last")

    archive = other.archive
    monkeypatch.setattr(archive, "manifests" if at == "list" else "_fetch", hang)
    assert await other.fetched() is None
    assert "nothing has moved for" in caplog.text
    assert len(asked) == 1, "the other snapshot would not come either"
    going_on.set()
    await eventually(lambda: other.left_behind() == [])


async def test_an_upload_that_hangs_is_given_up_and_not_followed_by_another(
    host: Host, other: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the store would fill the disk, one an interval."""
    await host.snapshot(1)
    await host.checkpoint(2)
    monkeypatch.setattr(snapshots, "UPLOAD_WITHIN", 0.1)
    going_on, asked = threading.Event(), []

    def hang(*_: Any) -> Any:
        asked.append(1)
        going_on.wait(60)
        raise OSError("at last")

    with monkeypatch.context() as patch:
        patch.setattr(host.archive, "upload", hang)
        with pytest.raises(Stalled):
            await host.snapshots.take(0)
        assert host.left_behind() == []
        with pytest.raises(StoreError, match="still waits for the place"):
            await host.snapshots.take(0)
        assert len(asked) == 1
    going_on.set()

    async def taken() -> bool:
        try:
            return await host.snapshots.take(0)
        except StoreError:
            return False

    await eventually(taken)
    assert await other.fetched() == 2


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        SnapshotPlace("nonsense://bucket")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigurationError, match=r"pip install fsspec"):
        SnapshotPlace("s3://bucket")


async def test_a_lost_disk_costs_the_changelogs_tail_alone(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    place = tmp_path / "far"
    state = tmp_path / "state"
    engine = {"snapshots": str(place), "snapshot_interval": 0.1}
    await kafka.create_topic("in", partitions=1)
    words = [b"word-%d" % (number % 50) for number in range(500)]
    await publish(kafka, "in", words)
    app = counting(kafka, state, engine=engine)
    async with running(app) as at_work:
        runner = await opened(at_work)
        archive = at_work.groups[0].snapshots.archive(0)
        await eventually(lambda: runner.task.marker.sources == {kafka.topic("in"): len(words)})
        sequence = runner.task.marker.sequence
        await eventually(lambda: any(each.sequence == sequence for each in archive.manifests()))
    await publish(kafka, "in", [b"word-1"])
    await run_once(counting(kafka, state))
    shutil.rmtree(state)

    app = counting(kafka, state, engine=engine)
    async with running(app) as at_work:
        runner = await opened(at_work)
        assert runner.restored == 1
        assert runner.task.store.get(b"counts\0word-1") == b"11"
    assert (await table_of(kafka, app))[b"word-1"] == b"11"
