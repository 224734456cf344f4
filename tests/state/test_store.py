"""The store of a task: what was written is there, whole, whoever dies in between."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from rocksdict import Options, Rdict, WriteBatch

from streamapp.errors import StoreError
from streamapp.state.store import Store, StoreMemory, TableWrites, prefix_of
from tests.polling import eventually
from tests.state.quick import QUICK_MACHINE
from tests.state.replica import ReplicatedStore, contents

OWNER = "app/topology/0"
TABLES = st.sampled_from(["a", "ab", "a.b", "b"])
KEYS = st.sampled_from([b"", b"\0", b"\0\0", b"\x01", b"a", b"ab", b"b", b"\xff", b"\xff\xff"])
VALUES = st.binary(max_size=3)
RANGES = st.lists(st.tuples(KEYS, KEYS).map(lambda pair: (min(pair), max(pair))), max_size=2)
MB = 1 << 20


class StoreAgainstDict(RuleBasedStateMachine):
    """Any sequence of write batches and restarts, beside one dict a table."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = ReplicatedStore()
        self.model: dict[str, dict[bytes, bytes]] = {}
        self.progress: bytes | None = None

    @property
    def store(self) -> Store:
        return self.replica.store

    @rule(
        table=TABLES,
        puts=st.dictionaries(KEYS, VALUES, max_size=4),
        deletes=st.sets(KEYS, max_size=2),
        ranges=RANGES,
        progress=st.none() | VALUES,
    )
    def write(
        self,
        table: str,
        puts: dict[bytes, bytes],
        deletes: set[bytes],
        ranges: list[tuple[bytes, bytes]],
        progress: bytes | None,
    ) -> None:
        deletes -= puts.keys()
        self.store.write([TableWrites(table, list(puts.items()), list(deletes), ranges)], progress)
        held = self.model.setdefault(table, {})
        for start, end in ranges:
            for key in [key for key in held if start <= key < end]:
                del held[key]
        held.update(puts)
        for key in deletes:
            held.pop(key, None)
        self.progress = progress if progress is not None else self.progress

    @rule()
    def restart(self) -> None:
        self.replica.reopen()

    @rule(table=TABLES, start=KEYS, end=KEYS)
    def read_a_range(self, table: str, start: bytes, end: bytes) -> None:
        prefix = prefix_of(table)
        expected = sorted(
            (prefix + key, value)
            for key, value in self.model.get(table, {}).items()
            if start <= key < end
        )
        assert list(self.store.scan(prefix + start, prefix + end)) == expected
        first = self.store.first(prefix + start, prefix + end)
        assert first == (expected[0][0] if expected else None)

    @rule(table=TABLES, key=KEYS)
    def read_a_key(self, table: str, key: bytes) -> None:
        assert self.store.get(prefix_of(table) + key) == self.model.get(table, {}).get(key)

    @invariant()
    def every_table_holds_its_own(self) -> None:
        for table in ("a", "ab", "a.b", "b"):
            assert contents(self.store, table) == self.model.get(table, {})

    @invariant()
    def progress_is_the_last_written(self) -> None:
        assert self.store.progress == self.progress

    def teardown(self) -> None:
        self.replica.remove()


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = QUICK_MACHINE


# ---------------------------------------------------------------------- scans


def numbered(count: int) -> TableWrites:
    return TableWrites("t", puts=[(b"%06d" % number, b"x") for number in range(count)])


def test_a_scan_sees_the_store_as_it_was_at_the_call(store: Store):
    store.write([numbered(3)], None)
    scan = store.scan(b"t\0", b"t\x01")
    store.write([TableWrites("t", puts=[(b"9", b"x")], deletes=[b"000001"])], None)
    assert len(list(scan)) == 3


def test_a_scan_keeps_its_bound_for_as_long_as_it_runs(store: Store):
    store.write([numbered(1000), TableWrites("u", puts=[(b"1", b"x")])], None)
    scans = [store.scan(b"t\0", b"t" + bytes([1])) for _ in range(50)]
    rest = [b"t" + bytes([number]) for number in range(256)]
    assert [len(list(scan)) for scan in scans] == [1000] * 50
    assert len(rest) == 256


def test_an_unfinished_scan_does_not_keep_the_store_open(tmp_path: Path, memory: StoreMemory):
    store = Store(tmp_path / "s", OWNER, memory)
    store.write([numbered(10)], b"p")
    scan = store.scan(b"t\0", b"t\x01")
    next(scan)
    store.close()
    again = Store(tmp_path / "s", OWNER, memory)
    assert again.progress == b"p"
    with pytest.raises(StoreError, match="closed during a scan"):
        next(scan)
    again.close()


def test_a_store_may_be_closed_twice(tmp_path: Path, memory: StoreMemory):
    store = Store(tmp_path / "s", OWNER, memory)
    store.close()
    store.close()


def test_writes_without_progress_leave_it(store: Store):
    store.write([], b"here")
    store.write([numbered(1)], None)
    assert store.progress == b"here"
    assert TableWrites("t").empty
    assert not numbered(1).empty


def test_a_store_can_be_looked_at_beside_its_owner(store: Store):
    store.write([numbered(1)], b"p")
    reader = Store.read_only(store.path)
    assert reader.get(b"t\x00000000") == b"x"
    reader.close()


def test_a_removed_store_begins_empty(tmp_path: Path, memory: StoreMemory):
    store = Store(tmp_path / "s", OWNER, memory)
    store.write([numbered(1)], b"p")
    store.close()
    Store.remove(tmp_path / "s")
    Store.remove(tmp_path / "s")
    again = Store(tmp_path / "s", OWNER, memory)
    assert again.progress is None
    assert again.first(b"t\0", b"t\x01") is None
    again.close()


# ---------------------------------------------------------------------- who may open it


def test_a_store_of_another_owner_is_refused(tmp_path: Path, memory: StoreMemory):
    Store(tmp_path / "s", OWNER, memory).close()
    with pytest.raises(StoreError, match=r"belongs to app/topology/0, not to other/topology/0"):
        Store(tmp_path / "s", "other/topology/0", memory)
    Store(tmp_path / "s", OWNER, memory).close()


def test_a_store_of_another_format_is_refused(tmp_path: Path, memory: StoreMemory):
    Store(tmp_path / "s", OWNER, memory).close()
    raw = Rdict(str(tmp_path / "s"), Options(raw_mode=True))
    batch = WriteBatch(raw_mode=True)
    batch.put(b"\0format", b"99")
    raw.write(batch)
    raw.close()
    with pytest.raises(StoreError, match=r"has format 99, this version of streamapp writes 1"):
        Store(tmp_path / "s", OWNER, memory)


HOLD = """
import sys
from pathlib import Path
from streamapp.state.store import Store, StoreMemory
store = Store(Path(sys.argv[1]), sys.argv[2], StoreMemory(1 << 20))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_store_that_another_process_holds_is_refused(tmp_path: Path, memory: StoreMemory):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "s"), OWNER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=r"another process has it open: stop that worker"):
            Store(tmp_path / "s", OWNER, memory)
        holder.communicate()
    Store(tmp_path / "s", OWNER, memory).close()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path, memory: StoreMemory):
    (tmp_path / "locks").write_text("")
    with pytest.raises(StoreError, match=r"does not open.*remove the directory"):
        Store(tmp_path / "locks", OWNER, memory)


# ---------------------------------------------------------------------- death

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from streamapp.state.store import Store, StoreMemory, TableWrites
store = Store(Path(sys.argv[1]), sys.argv[2], StoreMemory(1 << 20))
number = int(store.progress or b"0")
while True:
    number += 1
    value = b"%d" % number
    store.write(
        [
            TableWrites("even", [(b"%d" % key, value) for key in range(0, 200, 2)]),
            TableWrites("odd", [(b"%d" % key, value) for key in range(1, 200, 2)]),
            TableWrites(
                "panes",
                puts=[(b"%08d" % number, value)],
                ranges=[(b"%08d" % (number - 1), b"%08d" % number)],
            ),
        ],
        value,
    )
    print(number, flush=True)
"""


def written_until_killed(path: Path, after: int) -> int:
    """Run a writer on a store, kill it in the midst of its work; return the last write it told of."""
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path), OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines: Iterator[str] = iter(writer.stdout)
        for _ in range(after):
            told = int(next(lines))
        os.kill(writer.pid, signal.SIGKILL)
        for line in lines:
            if line.endswith("\n"):
                told = int(line)
    return told


def test_a_write_is_whole_or_not_there_when_the_process_is_killed(
    tmp_path: Path, memory: StoreMemory
):
    path = tmp_path / "s"
    for after in (1, 20, 100, 3):
        told = written_until_killed(path, after)
        store = Store(path, OWNER, memory)
        progress = store.progress
        assert progress is not None
        assert int(progress) >= told, "a write that was reported is not there"
        values = [*contents(store, "even").values(), *contents(store, "odd").values()]
        assert values == [progress] * 200
        assert contents(store, "panes") == {b"%08d" % int(progress): progress}
        store.close()


# ---------------------------------------------------------------------- memory


def property_of(store: Store, name: str) -> int:
    return int(store._db.property_value(f"rocksdb.{name}"))


async def test_many_stores_share_one_bound_of_memory(tmp_path: Path):
    memory = StoreMemory(8 * MB)
    stores = [Store(tmp_path / str(number), OWNER, memory) for number in range(32)]
    for turn in range(3):
        for store in stores:
            puts = [(b"%d %d" % (turn, key), os.urandom(1000)) for key in range(250)]
            store.write([TableWrites("t", puts=puts)], None)
    read = sum(len(value) for store in stores for value in contents(store, "t").values())
    assert read == 32 * 3 * 250 * 1000

    def bounded() -> bool:
        memtables = sum(property_of(store, "cur-size-all-mem-tables") for store in stores)
        (used,) = {property_of(store, "block-cache-usage") for store in stores}
        assert memtables < used <= 2 * memory.limit, f"{memtables} of {used}"
        return True

    # Memtables are charged to the cache, so its usage is all of it. Nobody waits for a flush: it
    # overshoots while the disk is busy, and then stays far below the 24 MB that were written.
    await eventually(bounded)
    for store in stores:
        store.close()


def test_a_store_that_holds_little_takes_little_memory(tmp_path: Path):
    memory = StoreMemory(64 * MB)
    store = Store(tmp_path / "s", OWNER, memory)
    store.write([numbered(500)], b"p")
    assert property_of(store, "cur-size-all-mem-tables") < MB // 4
    store.close()
