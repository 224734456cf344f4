"""The stores that a worker has of a topology: how far they are, open or not, and who opens them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from streamapp import Batches
from streamapp.engine.marker import Marker, Progress, encode
from streamapp.engine.store_keeper import StoreKeeper
from streamapp.engine.stores import TaskStores
from streamapp.state.store import Store, StoreMemory, TableWrites
from tests.engine.tasks import an_app

#: Milliseconds since the epoch, and no store is ever older.
NOW = 2**42


@pytest.fixture
def stores(tmp_path: Path) -> TaskStores:
    return make_stores(tmp_path)


def make_stores(directory: Path, cluster: str = "here") -> TaskStores:
    """What a worker that starts has of a topology with two tables."""
    app = an_app("shop")
    left, right = (app.BatchTable(name, default=int) for name in ("left", "right"))

    @app.batch_agent(app.topic("in", value_type=bytes))
    async def count(batches: Batches) -> None:
        async for _ in batches:
            left["a"] += 1
            right["a"] += 1

    [topology] = app.topologies()
    return TaskStores(topology, directory, StoreMemory(8 << 20), cluster)


async def write(stores: TaskStores, partition: int, at: int = NOW, **positions: int) -> None:
    progress = Progress(marker=Marker(), positions=positions, at=at)
    store = await stores.open(partition)
    store.write([TableWrites("left", [(b"a", b"1")])], encode(progress))


async def test_how_far_a_store_is_counts_all_its_changelogs_whether_it_is_open_or_not(
    stores: TaskStores, tmp_path: Path
) -> None:
    await write(stores, 0, left=5, right=7)
    await write(stores, 3, left=1)
    await stores.open(4)
    assert stores.positions() == {0: 12, 3: 1, 4: 0}
    stores.close(0)
    assert stores.positions() == {0: 12, 3: 1, 4: 0}
    await stores.close_all()

    again = make_stores(tmp_path)
    assert again.positions() == {}
    again.survey()
    assert again.positions() == {0: 12, 3: 1, 4: 0}
    await write(again, 3, left=2)
    assert again.positions() == {0: 12, 3: 2, 4: 0}
    await again.close_all()


async def test_what_is_no_store_is_not_counted(stores: TaskStores, tmp_path: Path) -> None:
    stores.survey()
    assert stores.positions() == {}
    (tmp_path / "count" / "7").mkdir(parents=True)
    (tmp_path / "count" / "8.foreign-1").mkdir()
    stores.survey()
    assert stores.positions() == {7: 0}


async def test_a_store_that_is_not_good_to_go_on_from_is_nowhere(
    stores: TaskStores, tmp_path: Path
) -> None:
    await write(stores, 0, left=5)
    await write(stores, 1, at=1, left=5)
    await stores.close_all()
    found = make_stores(tmp_path)
    found.survey()
    assert found.positions() == {0: 5, 1: 0}
    elsewhere = make_stores(tmp_path, cluster="there")
    elsewhere.survey()
    assert elsewhere.positions() == {0: 0, 1: 0}


async def test_a_store_is_opened_once_for_whoever_asks(stores: TaskStores) -> None:
    assert not stores.is_open(0)
    assert await stores.open(0) is await stores.open(0) is stores.opened(0)
    assert stores.is_open(0)
    stores.close(0)
    stores.close(0)
    assert not stores.is_open(0)


async def test_a_runner_gets_the_store_that_a_standby_has_and_the_other_way_round(
    stores: TaskStores,
) -> None:
    followed = await stores.open(0)
    assert await stores.open(0) is followed
    await stores.close_all()


async def test_a_store_of_another_cluster_is_set_aside(
    stores: TaskStores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await write(stores, 0, left=5)
    await stores.close_all()
    other = make_stores(tmp_path, cluster="there")
    assert (await other.open(0)).progress is None
    assert "of cluster here" in caplog.text
    assert len(list((tmp_path / "count").glob("0.foreign-*"))) == 1
    await other.close_all()


async def test_a_store_that_has_missed_tombstones_is_made_anew(
    stores: TaskStores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await write(stores, 0, at=1, left=5)
    await stores.close_all()
    again = make_stores(tmp_path)
    assert (await again.open(0)).progress is None
    assert "its store is too old" in caplog.text
    await again.close_all()


async def test_a_store_that_is_made_anew_is_empty_and_open(stores: TaskStores) -> None:
    await write(stores, 0, left=5)
    before = stores.opened(0)
    anew = await stores.make_anew(0)
    assert anew is stores.opened(0) is not before
    assert anew.progress is None
    assert stores.positions() == {0: 0}
    await stores.close_all()


async def test_the_event_loop_neither_opens_nor_closes_a_store(
    stores: TaskStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    opens, close = StoreKeeper.open, Store.close

    def opening(keeper: StoreKeeper) -> Store:
        threads.add(threading.current_thread().name)
        return opens(keeper)

    def closing(store: Store) -> None:
        threads.add(threading.current_thread().name)
        close(store)

    monkeypatch.setattr(StoreKeeper, "open", opening)
    monkeypatch.setattr(Store, "close", closing)
    await write(stores, 0, left=5)
    await stores.make_anew(0)
    await stores.leave(0, "for a test")
    stores.close(0)
    await stores.close_all()
    assert threads
    assert threading.main_thread().name not in threads


async def cancelled_while_opening(
    stores: TaskStores, monkeypatch: pytest.MonkeyPatch
) -> threading.Event:
    """Cancel whoever waits for a store that is being opened; return what lets the opening go on."""
    begun, go_on = threading.Event(), threading.Event()
    opens = StoreKeeper.open

    def held(keeper: StoreKeeper) -> Store:
        begun.set()
        go_on.wait(60)
        return opens(keeper)

    monkeypatch.setattr(StoreKeeper, "open", held)
    opening = asyncio.create_task(stores.open(0))
    assert await asyncio.to_thread(begun.wait, 60)
    opening.cancel()
    await asyncio.wait({opening})
    return go_on


@pytest.mark.parametrize("wanted", [True, False], ids=["cancelled", "unused"])
async def test_a_store_that_is_being_opened_is_nobody_elses_meanwhile(
    stores: TaskStores, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    """Whoever waited for it may be cancelled, and it may be used no longer: the next one gets one that is open."""
    go_on = await cancelled_while_opening(stores, monkeypatch)
    if not wanted:
        stores.close(0)
    second = asyncio.create_task(stores.open(0))
    await asyncio.sleep(0)
    assert not second.done()
    go_on.set()
    store = await second
    assert store is stores.opened(0)
    assert store.progress is None  # it answers: it is open
    await stores.close_all()
    assert not stores.is_open(0)


async def test_a_worker_that_stops_leaves_no_store_open_that_was_being_opened(
    stores: TaskStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = await cancelled_while_opening(stores, monkeypatch)
    closing = asyncio.create_task(stores.close_all())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    assert not stores.is_open(0)
