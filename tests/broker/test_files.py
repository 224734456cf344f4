"""Segments on disk: rolled, read across, replaced as a whole or not at all, dropped."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.broker import batches
from streamapp.broker.errors import JournalCorrupt
from streamapp.broker.files import FileStore
from streamapp.broker.segments import Place
from tests.broker.building import batch


def placed(offset: int, count: int = 1) -> bytes:
    return batches.placed(batch(*[(None, b"v")] * count), offset)


def filled(directory: Path, count: int, segment_bytes: int = 200) -> FileStore:
    """A store with `count` batches of one record each; two fit into a segment of 200 bytes."""
    store = FileStore(directory, lambda: segment_bytes)
    assert list(store.recover()) == []
    for offset in range(count):
        store.append(placed(offset), offset, offset + 1)
    return store


def replace(store: FileStore, until: int, *kept: bytes) -> list[Place]:
    """Keep these batches of all that are below `until`."""
    rewrite = store.rewrite(until)
    places = [rewrite.add(data) for data in kept]
    rewrite.commit()
    return places


def offsets(store: FileStore) -> list[int]:
    return [batches.parse(data).base_offset for data, _ in store.recover()]


def reopened(directory: Path) -> FileStore:
    return FileStore(directory, lambda: 200)


def test_what_was_appended_is_recovered_from_all_segments(tmp_path: Path) -> None:
    filled(tmp_path, 7).close()

    store = reopened(tmp_path)

    assert offsets(store) == list(range(7))
    assert store.end == 7
    assert len(list(tmp_path.iterdir())) > 2


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_any_run_of_batches_is_read_joined(first: int, last: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        filled(Path(directory), 10).close()
        store = reopened(Path(directory))
        found = list(store.recover())[first : last + 1]

        assert store.read([place for _, place in found]) == b"".join(data for data, _ in found)
        store.close()


def test_compacted_batches_replace_all_up_to_a_boundary(tmp_path: Path) -> None:
    store = filled(tmp_path, 7)
    until = store.boundary(5)
    assert 0 < until <= 5

    places = replace(store, until, placed(1))
    assert store.read(places) == placed(1)
    store.append(placed(7), 7, 8)
    store.close()

    assert offsets(reopened(tmp_path)) == [1, *range(until, 8)]


def test_a_segment_that_cannot_be_replaced_yet_goes_on_growing(tmp_path: Path) -> None:
    store = filled(tmp_path, 7)
    last = max(path.name for path in tmp_path.iterdir())
    base = int(last.split(".")[0])

    assert store.boundary(base) == base
    store.append(placed(7), 7, 8)
    store.close()

    assert max(path.name for path in tmp_path.iterdir()) == last


def test_a_rewrite_that_is_discarded_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path, 4)
    files = sorted(tmp_path.iterdir())

    rewrite = store.rewrite(store.boundary(4))
    rewrite.add(placed(1))
    rewrite.discard()
    store.close()

    assert sorted(tmp_path.iterdir()) == files
    assert offsets(reopened(tmp_path)) == [0, 1, 2, 3]


def test_a_store_compacted_to_nothing_knows_where_it_ends(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    replace(store, store.boundary(3))
    store.close()

    store = reopened(tmp_path)

    assert offsets(store) == []
    assert store.end == 3


def test_killed_between_a_compacted_file_and_what_it_replaces_only_it_counts(
    tmp_path: Path,
) -> None:
    at, before = tmp_path / "at", tmp_path / "before"
    store = filled(at, 6)
    until = store.boundary(6)
    shutil.copytree(at, before)
    replace(store, until, placed(5))
    store.close()
    for path in before.iterdir():
        shutil.copy(path, at)
    (at / "00000000000000000000-00000000000000000009.tmp").write_bytes(b"half")

    assert offsets(reopened(at)) == [5]
    assert len(list(at.iterdir())) == 1


def test_killed_between_two_compacted_files_the_longer_one_counts(tmp_path: Path) -> None:
    at, before = tmp_path / "at", tmp_path / "before"
    store = filled(at, 4)
    replace(store, store.boundary(4), placed(1), placed(3))
    for offset in (4, 5):
        store.append(placed(offset), offset, offset + 1)
    until = store.boundary(6)
    shutil.copytree(at, before)
    replace(store, until, placed(5))
    store.close()
    for path in before.iterdir():
        shutil.copy(path, at)

    assert offsets(reopened(at)) == [5]


def test_whole_segments_are_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    store = filled(tmp_path, 7)
    count = len(list(tmp_path.iterdir()))

    store.drop_before(5)
    assert len(list(tmp_path.iterdir())) < count
    store.close()
    assert {5, 6} <= set(offsets(reopened(tmp_path)))

    store = filled(tmp_path / "other", 3)
    store.drop_before(3)
    store.append(placed(3), 3, 4)
    store.close()
    assert offsets(reopened(tmp_path / "other")) == [3]


def test_a_segment_that_was_finished_and_is_torn_is_damage(tmp_path: Path) -> None:
    filled(tmp_path, 7).close()
    first = min(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-1])

    with pytest.raises(JournalCorrupt, match="not whole"):
        offsets(reopened(tmp_path))


def test_a_missing_order_of_offsets_is_damage(tmp_path: Path) -> None:
    store = FileStore(tmp_path, lambda: 1 << 20)
    list(store.recover())
    store.append(placed(5), 5, 6)
    store.append(placed(3), 3, 4)
    store.close()

    with pytest.raises(JournalCorrupt, match="offset 3 is too low"):
        offsets(reopened(tmp_path))
