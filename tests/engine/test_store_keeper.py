"""The store of a task on disk: its own, whole and young, or set aside and made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamapp import App, Batches
from streamapp.engine.marker import Marker, Progress, encode
from streamapp.engine.store_keeper import StoreKeeper
from streamapp.errors import DamagedStoreError, StoreError
from streamapp.faults import inject
from streamapp.state.store import TableWrites
from tests.brokers import BrokerUnderTest
from tests.engine.running import run_once, running
from tests.engine.tasks import MEMORY
from tests.engine.test_engine import publish
from tests.engine.test_recovery import counting, opened, table_of
from tests.polling import eventually

HOUR = 3_600_000


class Shelf:
    """A keeper of one task's store, and a clock that the test moves."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_000 * HOUR
        self.directory = directory
        self.keeper = self.of("app/topology/0")

    def of(self, owner: str, tombstones_kept: int = 24 * HOUR) -> StoreKeeper:
        return StoreKeeper(
            self.directory / "0", owner, MEMORY, "topology/0", tombstones_kept, lambda: self.now
        )

    def fill(self) -> None:
        """Open the store, write something that can be told again, and close it."""
        store = self.keeper.open()
        progress = Progress(marker=Marker(sequence=1), positions={}, at=self.now)
        store.write([TableWrites("t", [(b"key", b"value")])], encode(progress))
        store.close()

    def is_empty(self) -> bool:
        store = self.keeper.open()
        try:
            return store.progress is None
        finally:
            store.close()

    def aside(self, kind: str) -> list[str]:
        return sorted(path.name for path in self.directory.glob(f"0.{kind}-*"))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def damage(path: Path) -> None:
    (path / "CURRENT").write_text("garbage")


def test_a_damaged_store_is_set_aside_and_made_anew(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.fill()
    damage(shelf.keeper.path)
    assert shelf.is_empty()
    [aside] = shelf.aside("corrupt")
    assert (
        f"is damaged (Corruption: CURRENT file does not end with newline); it is now {shelf.directory / aside}"
        in caplog.text
    )


def test_a_store_that_another_process_holds_stays_where_it_is(shelf: Shelf) -> None:
    shelf.fill()
    holder = shelf.keeper.open()
    with pytest.raises(StoreError, match="another process has it open"):
        shelf.keeper.open()
    holder.close()
    assert shelf.aside("*") == []
    assert not shelf.is_empty()


def test_only_the_youngest_copies_are_kept(shelf: Shelf) -> None:
    shelf.fill()
    for number in range(4):
        shelf.keeper = shelf.of(f"app-{number}/topology/0")
        shelf.fill()
    before = shelf.aside("foreign")
    assert len(before) == 2
    damage(shelf.keeper.path)
    assert shelf.is_empty()
    assert shelf.aside("foreign") == before[1:]
    assert len(shelf.aside("corrupt")) == 1


def test_a_disk_that_damages_again_and_again_ends_the_worker(shelf: Shelf) -> None:
    for _ in range(2):
        shelf.fill()
        damage(shelf.keeper.path)
        assert shelf.is_empty()
    damage(shelf.keeper.path)
    with pytest.raises(StoreError, match=r"3 times within the hour.*another state_dir"):
        shelf.keeper.open()


@pytest.mark.parametrize(
    ("away", "kept", "too_old"), [(23, 24, False), (25, 24, True), (25, 48, False), (2, 1, True)]
)
def test_a_store_is_too_old_when_its_changelogs_keep_deletes_for_less(
    shelf: Shelf, away: int, kept: int, too_old: bool
) -> None:
    shelf.fill()
    shelf.now += away * HOUR
    shelf.keeper = shelf.of("app/topology/0", kept * HOUR)
    assert shelf.is_empty() is too_old


def test_data_that_nobody_says_the_age_of_is_too_old(shelf: Shelf) -> None:
    store = shelf.keeper.open()
    store.write([TableWrites("t", [(b"key", b"value")])], None)
    store.close()
    store = shelf.keeper.open()
    assert store.get(b"t\0key") is None
    store.close()


# ---------------------------------------------------------------------- on a broker


async def test_a_topic_whose_deletes_were_set_to_go_sooner_makes_stores_too_old_sooner(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    app = counting(kafka, tmp_path)
    await kafka.create_topic(
        f"{app.conf.id}-counts-changelog", cleanup_policy="compact", delete_retention_ms=HOUR
    )
    await kafka.create_topic("in", partitions=1)
    async with running(app) as engine:
        world, [group] = engine.groups[0].surroundings, engine.groups
        assert world.tombstones_kept(group.topology) == HOUR


def flip(path: Path) -> None:
    """Turn over what is in the middle of a file."""
    raw = bytearray(path.read_bytes())
    for at in range(len(raw) // 3, len(raw) // 2):
        raw[at] ^= 0xFF
    path.write_bytes(raw)


async def test_a_store_that_was_damaged_while_it_was_closed_is_rebuilt(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"] * 20)
    app = counting(kafka, tmp_path)
    await run_once(app)
    stores = tmp_path / app.conf.id / "worker-0" / "count"
    damage(stores / "0")

    await publish(kafka, "in", [b"a"])
    app = counting(kafka, tmp_path)
    await run_once(app)
    assert await table_of(kafka, app) == {b"a": b"41", b"b": b"20"}
    assert [path.name.split("-")[0] for path in stores.glob("0.*")] == ["0.corrupt"]


def reading(kafka: BrokerUnderTest, state: Path, swallow: bool) -> App:
    """An application that counts words, and may make nothing of any error."""
    app = counting(kafka, state)
    [agent] = app.batch_agents.values()
    counts = app.batch_tables["counts"]
    app.batch_agents.clear()

    @app.batch_agent(agent.topic, name="count", within=0, max_records=1_000, uses=[counts])
    async def count(batches: Batches) -> Any:
        async for batch in batches:
            for word in batch:
                try:
                    before = counts[word]
                except Exception:
                    if not swallow:
                        raise
                    before = 0
                counts[word] = before + 1

    return app


@pytest.mark.parametrize("swallow", [False, True])
async def test_damage_that_is_found_in_the_middle_of_work_costs_a_rebuild_and_nothing_else(
    kafka: BrokerUnderTest, tmp_path: Path, swallow: bool
) -> None:
    words = [b"%04d" % number for number in range(3_000)]
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", words)
    await run_once(reading(kafka, tmp_path, swallow))

    app = reading(kafka, tmp_path, swallow)
    stores = tmp_path / app.conf.id / "worker-0" / "count"
    async with running(app) as engine:
        runner = await opened(engine)
        for file in (stores / "0").glob("*.sst"):
            flip(file)
        await publish(kafka, "in", words)
        await eventually(lambda: runner.quiet and runner.position(kafka.topic("in")) == 6_000)
        assert runner.restored >= 3_000
    assert set((await table_of(kafka, app)).values()) == {b"2"}
    assert len(list(stores.glob("0.corrupt-*"))) == 1


async def test_a_write_that_finds_damage_after_the_commit_loses_nothing(
    kafka: BrokerUnderTest, tmp_path: Path
) -> None:
    await kafka.create_topic("in", partitions=1)
    app = counting(kafka, tmp_path)

    def fail() -> None:
        raise DamagedStoreError("the state store is damaged (by the test)")

    async with running(app) as engine:
        runner = await opened(engine)
        with inject("checkpoint.before-store", fail):
            await publish(kafka, "in", [b"a", b"a"])
            await eventually(lambda: runner.quiet and runner.position(kafka.topic("in")) == 2)
            await eventually(lambda: runner.restored > 0)
        await publish(kafka, "in", [b"a"])
        await eventually(lambda: runner.quiet and runner.position(kafka.topic("in")) == 3)
    assert await table_of(kafka, app) == {b"a": b"3"}
