"""What the tests of state share: a store in a directory of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamapp.state.store import Store, StoreMemory


@pytest.fixture(scope="session")
def memory() -> StoreMemory:
    return StoreMemory(16 << 20)


@pytest.fixture
def store(tmp_path: Path, memory: StoreMemory) -> Iterator[Store]:
    store = Store(tmp_path / "store", "app/topology/0", memory)
    yield store
    store.close()
