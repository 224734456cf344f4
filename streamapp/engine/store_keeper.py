"""The store of a task on this worker's disk: opened, or set aside with the reason and made anew.

A store is a copy of what its changelogs hold. One that cannot be trusted is worth nothing to the
task; it is kept for whoever wants to know what happened, as far as there is room.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from streamapp.engine.marker import decode_progress
from streamapp.errors import DamagedStoreError, ForeignStoreError, StoreError
from streamapp.state.store import Store, StoreMemory

__all__ = ["StoreKeeper"]

log = logging.getLogger(__name__)

#: Set-aside copies of one task's store that are kept: the youngest.
_KEPT_ASIDE = 2
#: A store that is damaged so often in so many seconds lies on a disk that cannot be used.
_DAMAGED_MOST = 3
_DAMAGED_WITHIN = 3600.0


class StoreKeeper:
    """Opens a task's store, and sees to it that it is the task's own, whole and young enough.

    Arguments:
        owner: whose state it has to be.
        name: the task's, for messages.
        tombstones_kept: how long its changelogs keep deletes, in milliseconds.
        clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        owner: str,
        memory: StoreMemory,
        name: str,
        tombstones_kept: int,
        clock: Callable[[], int],
    ) -> None:
        self.path = path
        self._owner = owner
        self._memory = memory
        self._name = name
        self._tombstones_kept = tombstones_kept
        self._clock = clock
        self._damaged: list[float] = []

    def open(self) -> Store:
        """Return the store; a new one, where what is there is another's, damaged or too old.

        Raises:
            StoreError: held by another process, of another format, refused by the system, or
                damaged for the third time in an hour.
        """
        try:
            store = Store(self.path, self._owner, self._memory)
        except ForeignStoreError as error:
            self._set_aside("foreign", error)
            return self._new()
        except DamagedStoreError as error:
            self.replace(error)
            return self._new()
        try:
            missed = self._has_missed_tombstones(store)
        except BaseException:
            store.close()
            raise
        if missed:
            log.warning("%s: its store is too old, and made anew from the changelog", self._name)
            store.close()
            Store.remove(self.path)
            return self._new()
        return store

    def replace(self, error: DamagedStoreError) -> None:
        """Set a damaged store aside, which nobody has open: the next open makes a new one.

        Raises:
            StoreError: for the third time in an hour, or it cannot be moved.
        """
        now = time.monotonic()
        self._damaged = [at for at in self._damaged if now - at < _DAMAGED_WITHIN] + [now]
        if len(self._damaged) >= _DAMAGED_MOST:
            raise StoreError(
                f"{error}, as it was {len(self._damaged)} times within the hour: do not trust this disk or this memory; "
                "give the worker another state_dir and start it again"
            ) from error
        self._set_aside("corrupt", error)

    def leave(self, why: str) -> None:
        """Set a store aside, which nobody has open, that cannot be gone on from.

        Raises:
            StoreError: it cannot be moved.
        """
        self._set_aside(
            "outdated",
            StoreError(f"the state store {self.path} is not gone on from: {why}"),
        )

    def _new(self) -> Store:
        return Store(self.path, self._owner, self._memory)

    def _has_missed_tombstones(self, store: Store) -> bool:
        """Whether it was away for so long that compaction may have taken deletes that it never saw."""
        raw = store.progress
        if raw is None:
            # Data that nobody says the age of: a restore was killed before it could.
            return store.holds_data
        current_at = decode_progress(raw, f"the state store {store.path}").at
        return self._clock() - current_at > self._tombstones_kept

    def _set_aside(self, kind: str, error: StoreError) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        aside = self.path.with_name(f"{self.path.name}.{kind}-{stamp}")
        try:
            self.path.rename(aside)
        except OSError as refused:
            raise StoreError(f"{error}, and it cannot be set aside: {refused}") from error
        log.warning("%s; it is now %s, and the changelog is restored", error, aside)
        earlier = sorted(
            self.path.parent.glob(f"{self.path.name}.*-*"),
            key=lambda path: path.name[-len(stamp) :],
        )
        for path in earlier[:-_KEPT_ASIDE]:
            log.info("removing %s, which was set aside before", path)
            Store.remove(path)
