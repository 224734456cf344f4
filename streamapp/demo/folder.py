"""The demo's files: what it keeps between two starts, and whose they are."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamapp.demo.errors import DemoError

__all__ = ["Folder", "shown"]


class Folder:
    """A directory that holds one demo: it begins as what the first `claim` makes of it, and stays it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The embedded broker's journal.
        self.broker = path / "broker"
        #: The worker's state stores.
        self.state = path / "state"
        #: Faust's own directory.
        self.faust = path / "faust"
        self.sample = path / "sample.log"
        self.tweets = path / "tweets.jsonl"
        self.worker_log = path / "worker.log"
        #: What broker and receiver have to say.
        self.demo_log = path / "demo.log"
        #: Names what this is a demo of; locked while the demo runs.
        self._owner = path / "demo.lock"

    @property
    def used(self) -> bool:
        """Whether a demo has run here."""
        return self.broker.exists()

    @contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Hold the directory for the demo of what has this name.

        Raises:
            DemoError: a demo is running in it, or it is the demo of something else.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._owner.open("a+") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DemoError(
                    f"a demo is running in {shown(self.path)}: stop it, or give this one a directory"
                    " of its own with --dir"
                ) from None
            owner.seek(0)
            before = owner.read().strip()
            if before and before != name and self.used:
                raise DemoError(
                    f"{shown(self.path)} holds the demo of {before}: begin anew with --fresh, or keep"
                    " both and give this one a directory of its own with --dir"
                )
            owner.truncate(0)
            owner.write(f"{name}\n")
            owner.flush()
            yield

    def clear(self) -> None:
        """Remove what a demo has left here, and nothing else.

        Raises:
            DemoError: a demo is running here.
        """
        if not self._owner.exists():
            return
        with self._owner.open("a+") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DemoError(f"a demo is running in {shown(self.path)}: stop it first") from None
            for directory in (self.broker, self.state, self.faust):
                if directory.exists():
                    shutil.rmtree(directory)
            for file in (self.sample, self.tweets, self.worker_log, self.demo_log):
                file.unlink(missing_ok=True)
            owner.truncate(0)


def shown(path: Path) -> str:
    """A path for reading: relative where it is below the working directory."""
    absolute = path.absolute()
    here = Path.cwd()
    return os.path.relpath(absolute, here) if absolute.is_relative_to(here) else str(path)
