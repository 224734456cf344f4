"""Who a worker is: a name or a slot, held while it lives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamapp.engine.identity import Identity
from streamapp.errors import ConfigurationError


def test_workers_without_a_name_take_the_first_free_slot(tmp_path: Path) -> None:
    first, second = Identity(tmp_path, None), Identity(tmp_path, None)
    assert (first.name, second.name) == ("worker-0", "worker-1")
    assert second.directory == tmp_path / "worker-1"
    assert not first.named
    first.release()
    assert Identity(tmp_path, None).name == "worker-0"


def test_a_name_is_taken_while_its_worker_lives(tmp_path: Path) -> None:
    ada = Identity(tmp_path, "ada")
    assert ada.named
    assert ada.directory == tmp_path / "ada"
    with pytest.raises(ConfigurationError, match=r"named ada is running already.*--name"):
        Identity(tmp_path, "ada")
    ada.release()
    assert Identity(tmp_path, "ada").name == "ada"


def test_a_slot_that_a_named_worker_holds_is_passed_over(tmp_path: Path) -> None:
    named = Identity(tmp_path, "worker-0")
    assert Identity(tmp_path, None).name == "worker-1"
    named.release()


def test_what_the_last_worker_left_is_found_again(tmp_path: Path) -> None:
    worker = Identity(tmp_path, None)
    (worker.directory / "store").write_text("state")
    worker.release()
    assert (Identity(tmp_path, None).directory / "store").read_text() == "state"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a b", "x" * 101])
def test_a_name_that_is_no_directory_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="a worker's name"):
        Identity(tmp_path, name)


def test_the_lock_says_which_process_holds_it(tmp_path: Path) -> None:
    worker = Identity(tmp_path, "ada")
    assert (tmp_path / "ada" / "lock").read_text() == f"{os.getpid()}\n"
    worker.release()
