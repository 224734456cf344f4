"""From changelog records to a store: the last value of each key, in batches that nobody waits long for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamapp.engine import replay as replaying
from streamapp.engine.marker import Marker, decode_progress
from streamapp.engine.replay import Replay
from streamapp.faults import inject
from streamapp.state.store import Store
from tests.engine.tasks import MEMORY, Record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store", "app/topology/0", MEMORY)
    yield store
    store.close()


def records(*pairs: tuple[bytes, bytes | None]) -> list[Record]:
    return [Record(offset, 0, key, value) for offset, (key, value) in enumerate(pairs)]


def table(store: Store, name: str) -> dict[bytes, bytes]:
    prefix = name.encode() + b"\0"
    return {
        key.removeprefix(prefix): value
        for key, value in store.scan(prefix, name.encode() + b"\x01")
    }


def positions(store: Store) -> dict[str, int]:
    assert store.progress is not None
    return decode_progress(store.progress, "the store").positions


async def test_the_last_record_of_a_key_counts_and_a_tombstone_deletes(store: Store) -> None:
    replay = Replay(store, {"t": 0, "u": 0}, 1_000)
    await replay.apply({"t": records((b"a", b"1"), (b"b", b"1"))}, {"t": 2}, Marker())
    changes = records((b"a", b"2"), (b"b", None), (b"a", b"3"))
    await replay.apply({"t": changes, "u": records((b"x", b"y"))}, {"t": 6, "u": 1}, Marker())

    assert table(store, "t") == {b"a": b"3"}
    assert table(store, "u") == {b"x": b"y"}
    assert positions(store) == {"t": 6, "u": 1}
    assert replay.records == 6
    assert replay.bytes == len(b"a1b1" + b"a3" + b"b" + b"xy")


async def test_control_records_alone_move_the_position(store: Store) -> None:
    replay = Replay(store, {"t": 3}, 1_000)
    await replay.apply({}, {"t": 5}, Marker(sequence=7))
    replay.finish(Marker(sequence=7))
    assert positions(store) == {"t": 5}


@pytest.mark.parametrize(("most_keys", "most_bytes"), [(10, 1 << 20), (1_000, 100)])
async def test_the_event_loop_runs_between_the_batches_of_a_fetch(
    store: Store, monkeypatch: pytest.MonkeyPatch, most_keys: int, most_bytes: int
) -> None:
    monkeypatch.setattr(replaying, "_MOST_KEYS", most_keys)
    monkeypatch.setattr(replaying, "_MOST_BYTES", most_bytes)
    replay = Replay(store, {"t": 0}, 1_000)
    fetched = records(*((b"%05d" % number, b"value") for number in range(100)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    await replay.apply({"t": fetched}, {"t": 100}, Marker())
    running.cancel()

    assert turns >= 10
    assert len(table(store, "t")) == 100


async def test_a_fetch_that_was_cut_short_is_written_again_as_a_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "_MOST_KEYS", 2)
    first = records((b"a", b"1"), (b"b", b"1"))
    second = records((b"a", b"2"), (b"b", None), (b"c", b"2"), (b"d", b"2"))

    def die() -> None:
        raise RuntimeError("killed")

    replay = Replay(store, {"t": 0}, 1_000)
    await replay.apply({"t": first}, {"t": 2}, Marker())
    with inject("restore.written", die), pytest.raises(RuntimeError):
        await replay.apply({"t": second}, {"t": 6}, Marker())
    assert positions(store) == {"t": 2}

    again = Replay(store, positions(store), 1_000)
    await again.apply({"t": second}, {"t": 6}, Marker())
    assert table(store, "t") == {b"a": b"2", b"c": b"2", b"d": b"2"}
    assert positions(store) == {"t": 6}


async def test_a_restore_waits_for_a_stalled_store_without_holding_up_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, True, False])
    monkeypatch.setattr(Store, "stalled", property(lambda self: next(answers)))
    replay = Replay(store, {"t": 0}, 1_000)
    await replay.apply({"t": records((b"a", b"1"))}, {"t": 1}, Marker())
    assert next(answers, None) is None
    assert table(store, "t") == {b"a": b"1"}


async def test_a_store_that_stays_stalled_is_written_after_a_while_and_says_why(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "stalled", True)
    monkeypatch.setattr(replaying, "_PATIENCE", 0.02)
    replay = Replay(store, {"t": 0}, 1_000)
    async with asyncio.timeout(10):
        await replay.apply({"t": records((b"a", b"1"))}, {"t": 1}, Marker())
    assert table(store, "t") == {b"a": b"1"}


async def test_a_store_is_as_old_as_when_it_last_held_all_that_there_was(store: Store) -> None:
    def at() -> int:
        assert store.progress is not None
        return decode_progress(store.progress, "the store").at

    replay = Replay(store, {"t": 0}, 1_000)
    await replay.apply({"t": records((b"a", b"1"))}, {"t": 1}, Marker())
    assert at() == 1_000
    await replay.apply({"t": records((b"b", b"1"))}, {"t": 2}, Marker(), 2_000)
    assert at() == 2_000
    await replay.apply({"t": records((b"c", b"1"))}, {"t": 3}, Marker())
    assert at() == 2_000
    replay.finish(Marker(), 3_000)
    assert at() == 3_000
