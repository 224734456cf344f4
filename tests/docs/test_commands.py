"""Commands in the documentation exist, with the options that are shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks_of

_OURS = ("streamapp", "faust", "pytest")
#: What every system has, or the page says how to get it; only the name is looked at.
_OTHERS = {"cd", "docker", "git", "jq", "kafka-topics.sh", "kcat", "kill", "pip", "printf", "rm"}
_OPTION = re.compile(r"--?[a-zA-Z][\w-]*")


def commands_of(page: Path) -> list[str]:
    """The commands of a page's shell blocks: lines joined, comments, prompts and pipes taken off."""
    found = []
    for block in blocks_of(page):
        if block.language == "sh":
            text = block.text.replace("\\\n", " ")
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                found += [part for part in _simple(words) if part]
    return [shlex.join(words) for words in found]


def _simple(words: list[str]) -> list[list[str]]:
    """Split at what separates commands; drop assignments, redirections and the path of a program."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("|", "&&", "&", ";"):
            parts.append([])
        elif word in (">", ">>"):
            parts[-1].append(word)
        elif parts[-1] or not re.match(r"[A-Z_]+=", word):
            parts[-1].append(word if parts[-1] else word.removeprefix(".venv/bin/"))
    return [part[: part.index(">")] if ">" in part else part for part in parts]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists_with_its_options(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program in _OURS:
        path = subcommands(program, arguments)
        shown = set(_OPTION.findall(help_of(program, *path)))
        options = {word.partition("=")[0] for word in arguments if _OPTION.match(word)}
        # `faust -A app worker`: those before the command belong to the program.
        known = shown | set(_OPTION.findall(help_of(program)))
        assert options <= known
    else:
        assert program in _OTHERS


def subcommands(program: str, arguments: list[str]) -> list[str]:
    """The words of a command line that are commands: `ingest file`, `worker`."""
    path: list[str] = []
    for word in arguments:
        listed = re.findall(r"^  ([a-z][a-z-]*)(?:\s|$)", help_of(program, *path), re.MULTILINE)
        if word in listed:
            path.append(word)
    return path


@cache
def help_of(program: str, *path: str) -> str:
    """What a command says of itself."""
    asked = [sys.executable, "-m", program, *path, "--help"]
    if program == "faust" and path:
        asked[3:3] = ["-A", "streamapp"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout
