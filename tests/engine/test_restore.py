"""What a restore takes of changelogs and markers that somebody else goes on writing, and when it is current."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from streamapp import App, Batches
from streamapp.engine.marker import MARKER_KEY, Marker, Progress, encode
from streamapp.engine.progress import Opening
from streamapp.engine.restore import Restore
from streamapp.engine.stores import progress_of
from streamapp.errors import StoreError
from streamapp.state.store import Store, TableWrites
from tests.engine.tasks import MEMORY, Record, an_app

DAY = 86_400_000


class Logs:
    """A task's topics in memory, posing as its readers: what is read of them may be behind their ends."""

    def __init__(self, ends: dict[TopicPartition, int]) -> None:
        self.begun: dict[TopicPartition, int] = {}
        #: Offsets at the end that have no data.
        self.control = 0
        self.records: dict[TopicPartition, list[Record]] = {tp: [] for tp in ends}
        self.most = 1_000
        self._ends = ends
        self._at: dict[TopicPartition, int] = {}

    def append(self, tp: TopicPartition, *pairs: tuple[bytes, bytes | None]) -> None:
        log = self.records[tp]
        log += [Record(len(log) + n, 0, key, value) for n, (key, value) in enumerate(pairs)]

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Logs]:
        yield self

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """As a reader."""

    def rest(self) -> None:
        """As a reader."""

    def read(self, tp: TopicPartition, offset: int) -> None:
        self._at[tp] = offset

    async def begins(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.begun.get(tp, 0) for tp in partitions}

    async def stable_ends(
        self, partitions: list[TopicPartition], name: str
    ) -> dict[TopicPartition, int]:
        return {tp: self._ends[tp] for tp in partitions}

    async def fetch(self, *partitions: TopicPartition) -> tuple[Any, Any]:
        fetched = {
            tp: self.records[tp][self._at[tp] : self._at[tp] + self.most] for tp in partitions
        }
        for tp, found in fetched.items():
            self._at[tp] += len(found) or self.control
        return fetched, {tp: self._at[tp] for tp in partitions}


def counting() -> App:
    app = an_app("shop")
    counts = app.BatchTable("counts", default=int)

    @app.batch_agent(app.topic("in", value_type=bytes))
    async def count(batches: Batches) -> None:
        async for _ in batches:
            counts["a"] += 1

    return app


[TOPOLOGY] = counting().topologies()
MARKS = TopicPartition(TOPOLOGY.checkpoint_topic, 0)
CHANGES = TopicPartition(TOPOLOGY.changelog("counts"), 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store", "app/topology/0", MEMORY)
    yield store
    store.close()


def marker(sequence: int) -> tuple[bytes, bytes]:
    return MARKER_KEY, encode(Marker(sequence=sequence, sources={"in": sequence}))


def restoring(logs: Logs, store: Store, now: int = DAY, left: list[str] | None = None) -> Restore:
    """Return a restore; why it has left its store is put into `left`."""
    left = [] if left is None else left

    async def agreed(marker: Marker) -> None:
        del marker

    async def renew(why: str, marker: Marker) -> Store:
        left.append(why)
        return Store(store.path.with_name(f"store-{len(left)}"), "app/topology/0", MEMORY)

    return Restore(
        logs,  # type: ignore[arg-type]
        TOPOLOGY,
        0,
        store,
        lambda: now,
        agreed,
        Opening("count/0", lambda: 0.0),
        renew,
    )


@pytest.mark.parametrize("most", [1, 1_000])
async def test_what_comes_in_behind_the_ends_that_it_found_is_left_alone(
    store: Store, most: int
) -> None:
    logs = Logs({MARKS: 2, CHANGES: 3})
    logs.most = most
    logs.append(MARKS, marker(1), marker(2), marker(3))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"a", b"3"), (b"b", None))
    restore = restoring(logs, store)
    found, positions = await restore.run()

    assert found is not None
    assert found.sequence == 2
    assert positions == {"counts": 3}
    assert store.get(b"counts\0a") == b"2"
    assert store.get(b"counts\0b") == b"1"
    assert restore.records == 3


async def test_the_marker_of_another_application_is_refused(store: Store) -> None:
    """Whose topology of another name has a checkpoint topic of the same."""
    logs = Logs({MARKS: 1, CHANGES: 0})
    logs.append(MARKS, (MARKER_KEY, encode(Marker(app="shop-eu", sequence=1))))
    with pytest.raises(StoreError, match=r"is of the application shop-eu, .* give the topology"):
        await restoring(logs, store).run()


@pytest.mark.parametrize(("kept", "at"), [(None, 7 * DAY), (DAY, DAY)])
async def test_on_its_way_a_store_is_as_old_as_it_was_and_at_the_end_it_is_current(
    store: Store, kept: int | None, at: int
) -> None:
    """An empty store has missed nothing yet; deletes that another has not read may go meanwhile."""
    if kept is not None:
        progress = Progress(marker=Marker(sequence=1), positions={"counts": 1}, at=kept)
        store.write([TableWrites("counts", [(b"a", b"1")])], encode(progress))
    logs = Logs({MARKS: 1, CHANGES: 3})
    logs.most = 1
    logs.append(MARKS, marker(1))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"), (b"a", None))
    fetch, fetches = logs.fetch, 0

    async def killed(*partitions: TopicPartition) -> Any:
        nonlocal fetches
        if CHANGES in partitions:
            fetches += 1
            if fetches > 1:
                raise RuntimeError("killed")
        return await fetch(*partitions)

    logs.fetch = killed  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        await restoring(logs, store, 7 * DAY).run()
    progress_now = progress_of(store)
    assert progress_now is not None
    assert progress_now.at == at

    logs.fetch = fetch  # type: ignore[method-assign]
    await restoring(logs, store, 8 * DAY).run()
    progress_now = progress_of(store)
    assert progress_now is not None
    assert progress_now.at == 8 * DAY


A, B = "first", "second"
TABLES = {"counts": "one"}


def written(store: Store, incarnation: str, position: int, sequence: int = 1) -> None:
    """Let a store hold a row, up to a position of its changelog."""
    progress = Progress(
        marker=Marker(
            incarnation=incarnation, sequence=sequence, tables=TABLES if incarnation else {}
        ),
        positions={"counts": position},
        at=DAY,
    )
    store.write([TableWrites("counts", [(b"old", b"1")])], encode(progress))


@pytest.mark.parametrize("sequence", [0, 1, 9], ids=["followed", "behind", "ahead"])
async def test_a_store_of_a_state_that_was_begun_anew_is_left(store: Store, sequence: int) -> None:
    """However far the new changelog has come: nothing that the old one held is in the new state."""
    written(store, A, 2, sequence)
    logs = Logs({MARKS: 1, CHANGES: 3})
    logs.append(MARKS, (MARKER_KEY, encode(Marker(incarnation=B, sequence=5, tables=TABLES))))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    restore = restoring(logs, store, left=(left := []))
    await restore.run()

    [why] = left
    assert f"the incarnation {A} of this state, which is now {B}" in why
    assert restore.store.get(b"counts\0old") is None
    assert restore.store.get(b"counts\0a") == b"1"
    assert restore.records == 3
    restore.store.close()


@pytest.mark.parametrize(("stored", "last"), [("", B), (A, "")])
async def test_a_store_of_a_version_that_knew_no_incarnations_is_gone_on_from(
    store: Store, stored: str, last: str
) -> None:
    written(store, stored, 1)
    logs = Logs({MARKS: 1, CHANGES: 2})
    logs.append(
        MARKS,
        (
            MARKER_KEY,
            encode(
                Marker(
                    incarnation=last, sequence=1, sources={"in": 1}, tables=TABLES if last else {}
                )
            ),
        ),
    )
    logs.append(CHANGES, (b"old", b"1"), (b"b", b"1"))
    restore = restoring(logs, store, left=(left := []))
    await restore.run()
    assert (left, restore.records) == ([], 1)


@pytest.mark.parametrize("sequence", [0, 3], ids=["followed", "run"])
async def test_a_store_of_a_task_that_has_no_marker_is_refused(store: Store, sequence: int) -> None:
    written(store, A, 1, sequence)
    logs = Logs({MARKS: 0, CHANGES: 2})
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    with pytest.raises(
        StoreError, match=r"is none: the topic was deleted .* streamapp reset count"
    ):
        await restoring(logs, store).run()


async def test_a_table_that_was_not_declared_for_a_while_begins_with_its_changelog(
    store: Store,
) -> None:
    """Of what the store has of it, a row may be deleted, and the delete compacted away since."""
    written(store, A, 1)
    progress = Progress(
        marker=Marker(incarnation=A, sequence=1, tables=TABLES), positions={}, at=DAY
    )
    store.write([TableWrites("counts2", [(b"other", b"1")])], encode(progress))
    logs = Logs({MARKS: 1, CHANGES: 2})
    logs.append(MARKS, (MARKER_KEY, encode(Marker(incarnation=A, sequence=1, tables=TABLES))))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    await restoring(logs, store).run()
    assert store.get(b"counts\0old") is None
    assert store.get(b"counts\0a") == b"1"
    assert store.get(b"counts2\0other") == b"1", "another table's"


@pytest.mark.parametrize(
    ("then", "now"),
    [("one", {"counts": "other"}), ("one", {})],
    ids=["came back", "was taken out"],
)
async def test_a_table_that_came_back_is_another_one_to_a_store_that_was_away(
    store: Store, then: str, now: dict[str, str]
) -> None:
    """Its changelog may have been deleted meanwhile, and have come further since."""
    known = Marker(incarnation=A, sequence=1, tables={"counts": then})
    progress = Progress(marker=known, positions={"counts": 1}, at=DAY)
    store.write([TableWrites("counts", [(b"old", b"1")])], encode(progress))
    logs = Logs({MARKS: 1, CHANGES: 2})
    logs.append(
        MARKS,
        (MARKER_KEY, encode(Marker(incarnation=A, sequence=2, sources={"in": 1}, tables=now))),
    )
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    restore = restoring(logs, store, left=(left := []))
    await restore.run()
    assert left == []
    assert store.get(b"counts\0old") is None
    assert store.get(b"counts\0a") == b"1"
    assert restore.records == 2


async def test_a_changelog_without_a_marker_is_refused(store: Store) -> None:
    """Whatever became of it, to begin the sources anew on that state would count twice."""
    logs = Logs({MARKS: 0, CHANGES: 2})
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    with pytest.raises(
        StoreError, match=r"no checkpoint of the task count/0 .*: streamapp reset count"
    ):
        await restoring(logs, store).run()
    assert not store.holds_data


async def test_a_table_that_was_another_topologys_is_refused(store: Store) -> None:
    """Its source would be read from its beginning, on top of what the other has made of it."""
    logs = Logs({MARKS: 1, CHANGES: 2})
    logs.append(MARKS, (MARKER_KEY, encode(Marker(incarnation=A, sequence=1, sources={"r": 7}))))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    with pytest.raises(StoreError, match="the table was another topology's before"):
        await restoring(logs, store).run()
    assert not store.holds_data


async def test_a_table_that_comes_back_has_what_it_had(store: Store) -> None:
    logs = Logs({MARKS: 1, CHANGES: 2})
    logs.append(MARKS, (MARKER_KEY, encode(Marker(incarnation=A, sequence=1, sources={"in": 7}))))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    await restoring(logs, store).run()
    assert store.get(b"counts\0a") == b"1"


async def test_what_was_aborted_is_no_state_without_a_marker(store: Store) -> None:
    logs = Logs({MARKS: 0, CHANGES: 2})
    logs.control = 2
    marker, positions = await restoring(logs, store).run()
    assert (marker, positions) == (None, {"counts": 2})


@pytest.mark.parametrize("replaced", ["", "earlier"])
async def test_after_a_reset_a_store_without_a_name_is_of_what_was_before(
    store: Store, replaced: str
) -> None:
    written(store, "", 1, sequence=500)
    logs = Logs({MARKS: 1, CHANGES: 2})
    reset = Marker(incarnation=B, replaces=replaced, reset=True, sequence=1, tables=TABLES)
    logs.append(MARKS, (MARKER_KEY, encode(reset)))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"))
    restore = restoring(logs, store, left=(left := []))
    await restore.run()
    assert len(left) == 1
    restore.store.close()


@pytest.mark.parametrize("position", [None, 1])
async def test_a_changelog_without_its_front_is_refused(store: Store, position: int | None) -> None:
    if position is not None:
        written(store, A, position)
    logs = Logs({MARKS: 1, CHANGES: 3})
    logs.begun[CHANGES] = 2
    logs.append(MARKS, (MARKER_KEY, encode(Marker(incarnation=A, sequence=1, tables=TABLES))))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    restore = restoring(logs, store, left=(left := []))
    with pytest.raises(
        StoreError, match=r"begins at 2, .* its front was cut.* streamapp reset count"
    ):
        await restore.run()
    assert len(left) == (0 if position is None else 1), "there may be a snapshot that is whole"
    restore.store.close()


async def test_a_store_that_holds_what_was_cut_is_gone_on_from(store: Store) -> None:
    written(store, A, 2)
    logs = Logs({MARKS: 1, CHANGES: 3})
    logs.begun[CHANGES] = 2
    logs.append(MARKS, (MARKER_KEY, encode(Marker(incarnation=A, sequence=1, tables=TABLES))))
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    restore = restoring(logs, store)
    await restore.run()
    assert store.get(b"counts\0old") == store.get(b"counts\0c") == b"1"
    assert restore.records == 1


async def test_what_a_reset_has_given_up_is_not_missed(store: Store) -> None:
    logs = Logs({MARKS: 1, CHANGES: 3})
    logs.begun[CHANGES] = 2
    logs.append(
        MARKS,
        (
            MARKER_KEY,
            encode(Marker(incarnation=A, sequence=1, begins={"counts": 2}, tables=TABLES)),
        ),
    )
    logs.append(CHANGES, (b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    restore = restoring(logs, store)
    await restore.run()
    assert store.get(b"counts\0a") is None
    assert store.get(b"counts\0c") == b"1"
