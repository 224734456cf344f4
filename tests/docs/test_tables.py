"""Tables in the documentation are complete, and say what the code says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamapp.broker import Faults
from streamapp.engine.marker import LedgerEntry
from streamapp.engine.settings import EngineSettings
from tests.docs.pages import ROOT, blocks_of

OPERATIONS = ROOT / "docs" / "operations.md"
DEPENDENCIES = ROOT / "docs" / "dependencies.md"


def section(page: Path, heading: str) -> str:
    """The text of a section, up to the next heading of its kind."""
    _, _, text = page.read_text("utf-8").partition(f"\n## {heading}\n")
    assert text, heading
    return text.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_all_settings_are_listed_with_their_defaults() -> None:
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows(section(OPERATIONS, "Settings"))}

    assert listed == {setting.name: default_of(setting) for setting in fields(EngineSettings)}


def default_of(setting: Field[Any]) -> str:
    """The default of a setting as it is written down; one that is made is a call of its class."""
    if setting.default_factory is not MISSING:
        return f"{setting.default_factory.__name__}()"
    return str(setting.default)


def test_the_ledger_entry_that_is_shown_is_whole() -> None:
    [shown] = [block.text for block in blocks_of(OPERATIONS) if block.language == "json"]

    entry = msgspec.json.decode(shown, type=LedgerEntry)

    assert msgspec.to_builtins(entry) == msgspec.json.decode(shown)


def test_messages_are_those_of_the_code() -> None:
    code = "".join(path.read_text("utf-8") for path in sorted((ROOT / "streamapp").rglob("*.py")))
    # A message is written over several lines, and has values in it.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    code = re.sub(r"\{[^{}]*\}", "…", code)

    for message, _ in rows(section(OPERATIONS, "Messages, and what to do")):
        assert message.strip("`") in code


@pytest.mark.parametrize(
    ("heading", "declared"),
    [
        ("To run", lambda project: project["project"]["dependencies"]),
        (
            "With the extra `broker`",
            lambda project: project["project"]["optional-dependencies"]["broker"],
        ),
        (
            "With the extra `postgres`",
            lambda project: project["project"]["optional-dependencies"]["postgres"],
        ),
        (
            "With the extra `snapshots`",
            lambda project: project["project"]["optional-dependencies"]["snapshots"],
        ),
        ("To develop", lambda project: project["dependency-groups"]["dev"]),
    ],
)
def test_all_dependencies_are_listed(heading: str, declared: Callable[[Any], list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    listed = [row[0].strip("`") for row in rows(section(DEPENDENCIES, heading))]

    assert listed == [re.split(r"[^\w-]", each)[0] for each in declared(project)]


def test_all_faults_are_listed() -> None:
    page = (ROOT / "docs" / "embedded-broker.md").read_text("utf-8")
    kinds = [name for name in vars(Faults) if not name.startswith(("_", "take_", "active"))]

    assert kinds == re.findall(r"^\| `(\w+)\(", page, re.MULTILINE)
