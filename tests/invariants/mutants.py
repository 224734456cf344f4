"""Mutants: the engine without a line that holds an invariant. Each has to be caught by that one's test.

    python -m tests.invariants.mutants

A mutant is made in a copy of the checkout, so that nothing is broken here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "Mutant", "survives"]

ROOT = Path(__file__).parents[2]
_COPIED = ("streamapp", "tests", "agents", "tables", "pyproject.toml")
_PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
_TESTS = "tests/invariants/test_invariants.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is done to the engine.

    Attributes:
        invariant: its number.
        what: what the engine does now.
        path: of the file, below `streamapp`.
        changes: pairs of the text that is there once, and what is there instead.
    """

    invariant: int
    what: str
    path: str
    changes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"

    def apply(self, root: Path) -> None:
        """Change the file.

        Raises:
            AssertionError: the text is not there, or more than once.
        """
        path = root / "streamapp" / self.path
        source = path.read_text()
        for before, after in self.changes:
            assert source.count(before) == 1, f"{self}: {path.name} has changed, mend the mutant"
            source = source.replace(before, after)
        path.write_text(source)


MUTANTS = (
    Mutant(
        1,
        "commits the offsets apart from the rest",
        "engine/producer.py",
        (("                if offsets:\n", "                if not offsets:\n"),),
    ),
    Mutant(
        1,
        "commits before it is time",
        "engine/producer.py",
        (
            (
                '            fault_point(f"{what}.before-commit")\n',
                "            await producer.commit_transaction()\n"
                "            await producer.begin_transaction()\n"
                '            fault_point(f"{what}.before-commit")\n',
            ),
        ),
    ),
    Mutant(
        2,
        "writes the store before the commit",
        "engine/runner.py",
        (
            (
                "        ends = await self._producer.commit(\n",
                "        task.store.write(checkpoint.writes, None)\n"
                "        ends = await self._producer.commit(\n",
            ),
        ),
    ),
    Mutant(
        3,
        "writes the progress by itself",
        "state/store.py",
        (("batch.put(_PROGRESS_KEY, progress)", "self._db.put(_PROGRESS_KEY, progress)"),),
    ),
    Mutant(
        3,
        "writes the data of a checkpoint after its progress",
        "engine/task.py",
        (
            (
                "        self.store.write(checkpoint.writes, encode(progress))\n",
                "        self.store.write([], encode(progress))\n"
                "        self.store.write(checkpoint.writes, None)\n",
            ),
        ),
    ),
    Mutant(
        4,
        "takes the source offsets from the group",
        "engine/runner.py",
        (
            (
                "offsets = {tp: self.task.marker.sources[tp.topic] for tp in self.sources}",
                "offsets = {tp: await self._group.initial_offset(tp) for tp in self.sources}",
            ),
        ),
    ),
    Mutant(
        4,
        "does not compare the group's offsets",
        "engine/agreement.py",
        (("        if not differing:\n", "        if True:\n"),),
    ),
    Mutant(
        4,
        "reads first and fences then",
        "engine/opening.py",
        (
            ("await self._producer.open()\n", "pass\n"),
            (
                "        if task is not None:\n            await task.abort()\n",
                "        await self._producer.open()\n",
            ),
        ),
    ),
    Mutant(
        4,
        "does not wait for open transactions",
        "engine/readers.py",
        (("if stable[tp] < written[tp]}", "if stable[tp] < 0}"),),
    ),
    Mutant(
        5,
        "does not look at deliveries",
        "engine/producer.py",
        (
            (
                "        errors = [(t, e) for",
                "        self._futures = [f for f in self._futures if f[2].exception() is None]\n"
                "        errors = [(t, e) for",
            ),
        ),
    ),
    Mutant(
        5,
        "takes a commit of unknown outcome for one that went well",
        "engine/producer.py",
        (
            (
                "                await producer.commit_transaction()\n        except BaseException",
                "                await producer.commit_transaction()\n"
                "        except TimeoutError:\n"
                "            pass\n"
                "        except BaseException",
            ),
        ),
    ),
    Mutant(
        5,
        "fences without asking the group",
        "engine/runner.py",
        (("if not await self._group.membership.confirmed(self.epoch):", "if not self.epoch:"),),
    ),
    Mutant(
        6,
        "keeps what a failed batch wrote",
        "engine/runner.py",
        (
            (
                "        fault = task.fault(error)\n        await task.abort()\n",
                "        fault = task.fault(error)\n",
            ),
        ),
    ),
    Mutant(
        7,
        "restores from the beginning",
        "engine/restore.py",
        (
            (
                "span.begin if position is None else position",
                "span.begin",
            ),
        ),
    ),
    Mutant(
        8,
        "never has enough",
        "engine/intake.py",
        (("return self.pending < self._most_records and not self.heavy", "return True"),),
    ),
    Mutant(
        9,
        "drops what cannot be read",
        "engine/task.py",
        (
            (
                "        self._live.outbox.put(\n            dead_letter(",
                "        _ = (\n            dead_letter(",
            ),
        ),
    ),
    Mutant(
        9,
        "sends dead letters as they are, whatever their topic takes",
        "engine/dead_letters.py",
        (("    if letter.size <= limit:\n", "    if True:\n"),),
    ),
    Mutant(
        9,
        "sends what is too large",
        "engine/outbox.py",
        (("        if record.size > limit:\n", "        if not limit:\n"),),
    ),
)


def survives(mutant: Mutant) -> bool:
    """Whether the tests of its invariant pass all the same."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy = Path(directory)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        mutant.apply(copy)
        done = subprocess.run(
            [*_PYTEST, _TESTS, "-k", f"test_{mutant.invariant}_ and not apache"],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
    # 1 is "tests failed"; anything else says nothing about them.
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode == 0


def main() -> int:
    """Try all mutants; 1 when one survives."""
    survivors = 0
    for mutant in MUTANTS:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVED' if alive else 'caught  '} {mutant}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
