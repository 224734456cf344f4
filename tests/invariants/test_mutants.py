"""The mutants stay in step with the engine; running them takes minutes and is left to `make mutants`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.invariants.mutants import MUTANTS, ROOT, Mutant, survives


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_what_a_mutant_changes_is_there(mutant: Mutant, tmp_path: Path) -> None:
    place = tmp_path / "streamapp" / mutant.path
    place.parent.mkdir(parents=True)
    shutil.copy(ROOT / "streamapp" / mutant.path, place)
    mutant.apply(tmp_path)
    compile(place.read_text(), mutant.path, "exec")


def test_each_invariant_has_one() -> None:
    assert {mutant.invariant for mutant in MUTANTS} == set(range(1, 10))


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    assert not survives(mutant)
