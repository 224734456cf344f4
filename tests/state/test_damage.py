"""A damaged store is never read as if it were whole, whatever of it is damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamapp.errors import DamagedStoreError, StoreError
from streamapp.state.store import Store, StoreMemory, TableWrites

OWNER = "app/topology/0"
KEYS = 2_000
#: Fewer flushed files than make RocksDB compact them: they hold still while they are copied.
ROUNDS = 4
Damage = Callable[[bytes], bytes | None]


def flipped(part: float) -> Damage:
    """Turn over the bits of one byte."""

    def flip(raw: bytes) -> bytes:
        at = int(len(raw) * part)
        return raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :]

    return flip


def truncated(part: float) -> Damage:
    return lambda raw: raw[: int(len(raw) * part)]


def missing(raw: bytes) -> None:
    return None


@pytest.fixture
def memory() -> StoreMemory:
    return StoreMemory(8 << 20)


@pytest.fixture
def killed(tmp_path: Path, memory: StoreMemory) -> Iterator[Path]:
    """What a killed worker leaves: files that were flushed, and a log that was not.

    Each round writes every key; its number is in the values, and in `progress`.
    """
    store = Store(tmp_path / "open", OWNER, memory)
    for number in range(ROUNDS):
        puts = [(b"%05d" % key, b"%03d" % number * 30) for key in range(KEYS)]
        store.write([TableWrites("t", puts)], b"%03d" % number)
        if number < ROUNDS - 1:
            store._db.flush()
    shutil.copytree(tmp_path / "open", tmp_path / "killed")
    store.close()
    yield tmp_path / "killed"


def damage(path: Path, pattern: str, how: Damage, which: int = -1) -> None:
    file = sorted(path.glob(pattern))[which]
    changed = how(file.read_bytes())
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)


def read_all(path: Path, memory: StoreMemory) -> int:
    """Read everything in both ways, and return up to which round it is whole."""
    store = Store(path, OWNER, memory)
    try:
        assert store.progress is not None
        scanned = dict(store.scan(b"t\0", b"t\x01"))
        assert len(scanned) == KEYS
        for key in range(KEYS):
            assert store.get(b"t\0%05d" % key) == store.progress * 30 == scanned[b"t\0%05d" % key]
        return int(store.progress)
    finally:
        store.close()


def test_what_a_killed_worker_leaves_is_whole(killed: Path, memory: StoreMemory) -> None:
    assert read_all(killed, memory) == ROUNDS - 1


@pytest.mark.parametrize("part", [0.0, 0.3, 0.8, 0.999])
@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst"])
def test_a_flipped_byte_is_found(
    killed: Path, memory: StoreMemory, pattern: str, part: float
) -> None:
    damage(killed, pattern, flipped(part))
    try:
        read_all(killed, memory)
    except DamagedStoreError as error:
        assert str(killed) in str(error)
    else:
        # RocksDB repairs what it reads twice, and some bytes mean nothing: then all of it is there.
        assert pattern == "*.sst"


@pytest.mark.parametrize("how", [missing, truncated(0), truncated(0.3), truncated(0.7)])
@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst"])
def test_a_file_that_is_cut_or_gone_is_found(
    killed: Path, memory: StoreMemory, pattern: str, how: Damage
) -> None:
    damage(killed, pattern, how)
    with pytest.raises(DamagedStoreError):
        read_all(killed, memory)


@pytest.mark.parametrize("cut", [20, 60, 100])
def test_a_manifest_without_its_end_is_no_shorter_manifest(
    killed: Path, memory: StoreMemory, cut: int
) -> None:
    damage(killed, "MANIFEST-*", lambda raw: raw[:-cut])
    with pytest.raises(DamagedStoreError, match="its manifest ends at write"):
        Store(killed, OWNER, memory)


@pytest.mark.parametrize(
    "how", [flipped(0.001), flipped(0.5), truncated(0.999), truncated(0), missing]
)
def test_a_torn_log_is_what_a_crash_leaves_and_the_store_is_whole_before_it(
    killed: Path, memory: StoreMemory, how: Damage
) -> None:
    damage(killed, "*.log", how)
    assert read_all(killed, memory) == ROUNDS - 2


def test_a_scan_that_comes_upon_damage_does_not_end_as_if_there_were_no_more(
    killed: Path, memory: StoreMemory
) -> None:
    damage(killed, "*.log", missing)
    damage(killed, "*.sst", flipped(0.4))
    store = Store(killed, OWNER, memory)
    found = []
    with pytest.raises(DamagedStoreError):
        for pair in store.scan(b"t\0", b"t\x01"):
            found.append(pair)
    assert 0 < len(found) < KEYS
    assert isinstance(store.damage, DamagedStoreError)
    store.close()


def test_what_the_system_refuses_is_no_damage(killed: Path, memory: StoreMemory) -> None:
    holder = Store(killed, OWNER, memory)
    with pytest.raises(StoreError, match="another process has it open") as held:
        Store(killed, OWNER, memory)
    holder.close()
    assert not isinstance(held.value, DamagedStoreError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_without_permission_is_no_damage(killed: Path, memory: StoreMemory) -> None:
    (killed / "CURRENT").chmod(0)
    with pytest.raises(StoreError, match="may write there") as refused:
        Store(killed, OWNER, memory)
    assert not isinstance(refused.value, DamagedStoreError)
