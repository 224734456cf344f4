"""Every Python block of a page is executed, in order, with one application for the page.

A block that begins with the name of a file is that module for the blocks after it; the others share
a namespace. What is written as a test is run as one.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import agents
import streamapp
from tests.docs.pages import PAGES, Block, blocks_of

_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def python_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> streamapp.App:
    """In place of the application that ships: the page's own, in a directory of its own."""
    # What ships is declared on the application that ships, whoever imports it first.
    for module in pkgutil.iter_modules(agents.__path__, "agents."):
        import_module(module.name)
    monkeypatch.chdir(tmp_path)
    app = streamapp.App("streamapp", autodiscover=False, topic_partitions=4, web_enabled=False)
    monkeypatch.setitem(vars(streamapp), "app", app)
    return app


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_of(page)], ids=lambda page: page.stem
)
async def test_the_python_of_a_page_does_what_it_says(
    page: Path, application: streamapp.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ModuleType(f"page_{page.stem.replace('-', '_')}")
    for block in python_of(page):
        module = shared if block.module is None else ModuleType(block.module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        await execute(page, block, module)


async def execute(page: Path, block: Block, module: ModuleType) -> None:
    """Run a block in a module, and the tests that it defines."""
    known = dict(vars(module))
    # Line numbers in a traceback are those of the page.
    source = "\n" * (block.line - 1) + block.text
    running = eval(compile(source, page, "exec", flags=_AWAIT), vars(module))
    if inspect.isawaitable(running):
        await running
    for name, found in list(vars(module).items()):
        if name.startswith("test_") and known.get(name) is not found:
            result = found()
            if inspect.isawaitable(result):
                await result
