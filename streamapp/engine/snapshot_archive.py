"""Copies of one task's store on a filesystem of fsspec: a directory, S3, or whatever else it knows.

A snapshot is its manifest: a small file that is written last, named after what is in it, and that
names the others by their SHA-256. Whatever half a copy leaves behind is named by no manifest, and
removed later; whatever is not what was written is found out when it is read.

Two workers may write here at a time, one of them a zombie. It can only have what it committed
while it had the task, so its copy is as true as any other of the same checkpoint, only older. It
may remove what the other has just written and not named yet, were it not for the hour that
unnamed files are left alone; and a copy that lacks a file all the same is found out, too.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import msgspec

from streamapp.errors import ConfigurationError, StoreError
from streamapp.faults import fault_point

__all__ = ["Manifest", "Sent", "SnapshotArchive", "SnapshotPlace"]

log = logging.getLogger(__name__)

#: The version of manifests and of what they name: each has directories of its own.
_FORMAT = "v1"
#: Snapshots of a task that are kept.
_KEPT = 2
#: How much of a file is fetched at a time, in bytes.
_PIECE = 1 << 20
#: Files that no manifest names are somebody's upload, until they are so old, in milliseconds.
_RUBBISH_AFTER = 3_600_000


class SnapshotFile(msgspec.Struct, frozen=True):
    """One file of a store: its name there, and its SHA-256, which is its name in the archive."""

    name: str
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot.

    Attributes:
        owner: whose state it is, as the store has it.
        incarnation, tables: of that state, as the marker has them.
        sequence: the checkpoint that it was taken after.
        positions: the next offset of each table's changelog that it does not hold.
        at: when that checkpoint was known to be the last one, in milliseconds.
        taken: when the snapshot was taken, in milliseconds.
    """

    owner: str
    incarnation: str = ""
    tables: dict[str, str] = {}
    sequence: int
    positions: dict[str, int]
    at: int
    taken: int
    files: list[SnapshotFile] = []


class Sent(NamedTuple):
    """What an upload has done.

    Attributes:
        size: bytes that were sent.
        at: the snapshot's that is there now, this one or an earlier one of the same checkpoint.
    """

    size: int
    at: int


class SnapshotPlace:
    """Where the snapshots of an application's tasks are.

    Arguments:
        url: as fsspec takes it: `s3://bucket/folder`, `/mnt/backup`.

    Raises:
        ConfigurationError: fsspec, or its package for this kind of URL, is not installed; or there
            is no such kind.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise ConfigurationError(
                f"snapshots={url!r} needs fsspec: pip install fsspec, or this package with the extra 'snapshots'"
            ) from error
        try:
            self._filesystem, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"snapshots={url!r} cannot be used: {error}") from error

    def archive(self, *path: str) -> SnapshotArchive:
        """Return the archive of one task, under a path of its own."""
        return SnapshotArchive(self._filesystem, "/".join((self._root.rstrip("/"), _FORMAT, *path)))


class SnapshotArchive:
    """The snapshots of one task. Everything here waits for the filesystem: it is for threads.

    What fails raises whatever the filesystem raises; there is no list of that.
    """

    def __init__(self, filesystem: Any, directory: str) -> None:
        self.directory = directory
        self._filesystem = filesystem
        #: Digests of files that were read already: a file of RocksDB's that is linked changes no more.
        self._digests: dict[tuple[int, int, int], str] = {}

    def manifests(self) -> list[Manifest]:
        """Return the snapshots that are there, the furthest first; damaged ones are passed over."""
        found = []
        for name in self._names():
            if not name.endswith(".json"):
                continue
            try:
                found.append(self._manifest(name))
            except (StoreError, FileNotFoundError) as error:
                log.warning("passing over the snapshot %s/%s: %s", self.directory, name, error)
        return sorted(found, key=lambda each: (each.sequence, each.taken), reverse=True)

    def _manifest(self, name: str) -> Manifest:
        raw = self._filesystem.cat_file(f"{self.directory}/{name}")
        if name != _name_of(raw):
            raise StoreError("its manifest is not what was written")
        return msgspec.json.decode(raw, type=Manifest)

    def upload(
        self, store: Path, about: Manifest, moved: Callable[[], None], since: int = -1
    ) -> Sent:
        """Copy a store that nobody writes, and keep the furthest snapshots.

        There is nothing to do for a checkpoint that has its snapshot, a young one.

        Arguments:
            moved: called between two files; what it raises ends this.
            since: when that checkpoint was still the last one, at least, in milliseconds.
        """
        earlier = self.manifests()
        if ours := [each.at for each in earlier if _of_the_same(each, about) and each.at > since]:
            return Sent(0, max(ours))
        self._filesystem.makedirs(f"{self.directory}/files", exist_ok=True)
        # What no manifest names may be half a file, or be removed as rubbish before this one does; what
        # one names may be gone all the same.
        named = {file.digest for manifest in earlier for file in manifest.files}
        there = {digest: size for digest, size in self._sizes().items() if digest in named}
        files: list[SnapshotFile] = []
        seen: dict[tuple[int, int, int], str] = {}
        sent = 0
        moved()
        for path in sorted(store.iterdir()):
            moved()
            status = path.stat()
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
            digest = seen[identity] = self._digests.get(identity) or _digest(path)
            files.append(SnapshotFile(path.name, digest))
            if there.get(digest) != status.st_size:
                self._filesystem.put_file(str(path), self._file(digest))
                sent += status.st_size
                fault_point("snapshot.file-uploaded")
        moved()
        self._digests = seen
        manifest = msgspec.structs.replace(about, files=files)
        raw = msgspec.json.encode(manifest)
        fault_point("snapshot.before-manifest")
        self._filesystem.pipe_file(f"{self.directory}/{_name_of(raw)}", raw)
        fault_point("snapshot.after-manifest")
        self._clean(manifest)
        return Sent(sent, manifest.at)

    def _clean(self, latest: Manifest) -> None:
        """Remove all but the furthest snapshots, and then what none of them names.

        The latest stays whatever the others say: clocks differ, and a state that was begun anew may
        count its checkpoints from one again.
        """
        now = latest.taken
        others = [manifest for manifest in self.manifests() if manifest != latest]
        others.sort(key=lambda each: each.incarnation != latest.incarnation)
        kept = [latest, *others][:_KEPT]
        names = {_name_of(msgspec.json.encode(manifest)) for manifest in kept}
        for name in self._names():
            if name.endswith(".json") and name not in names:
                self._remove(f"{self.directory}/{name}")
        named = {file.digest for manifest in kept for file in manifest.files}
        for digest in self._sizes():
            path = self._file(digest)
            if digest not in named and now - self._written(path) > _RUBBISH_AFTER:
                self._remove(path)

    def _remove(self, path: str) -> None:
        try:
            self._filesystem.rm_file(path)
        except FileNotFoundError:  # the other one was faster
            return

    def _written(self, path: str) -> int:
        """Return when a file was written, in milliseconds."""
        try:
            modified: datetime = self._filesystem.modified(path)
        except (FileNotFoundError, NotImplementedError):
            return 0
        if modified.tzinfo is None:
            modified = modified.replace(tzinfo=UTC)
        return round(modified.timestamp() * 1000)

    def download(self, manifest: Manifest, into: Path, moved: Callable[[], None]) -> None:
        """Copy a snapshot to a new directory, and see it safely on the disk.

        Arguments:
            moved: called between two pieces of a file; what it raises ends this, and what was copied
                is left to whoever asked for it.

        Raises:
            StoreError: it is not what was written.
        """
        into.mkdir(parents=True)
        for file in manifest.files:
            if PurePath(file.name).name != file.name or file.name == "..":
                raise StoreError(f"its manifest has a file {file.name!r}")
            path = into / file.name
            try:
                found = self._fetch(file.digest, path, moved)
            except FileNotFoundError as error:
                raise StoreError(f"its file {file.digest} ({file.name}) is missing") from error
            if found != file.digest:
                raise StoreError(f"its file {file.digest} ({file.name}) is damaged")
            _sync(path)
            fault_point("snapshot.file-downloaded")
        _sync(into)
        moved()

    def _fetch(self, digest: str, path: Path, moved: Callable[[], None]) -> str:
        """Copy a file; return the digest of what came."""
        found = hashlib.sha256()
        with self._filesystem.open(self._file(digest), "rb") as source, path.open("wb") as copy:
            while piece := source.read(_PIECE):
                moved()
                found.update(piece)
                copy.write(piece)
        return found.hexdigest()

    def _file(self, digest: str) -> str:
        return f"{self.directory}/files/{digest}"

    def _sizes(self) -> dict[str, int]:
        """Return the files that are there, with their sizes."""
        found = self._listed(f"{self.directory}/files")
        return {_last(file["name"]): file["size"] for file in found}

    def _names(self) -> list[str]:
        return [_last(file["name"]) for file in self._listed(self.directory)]

    def _listed(self, directory: str) -> list[dict[str, Any]]:
        # What was listed before may be remembered, and others write here too.
        self._filesystem.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._filesystem.ls(directory, detail=True)
        except FileNotFoundError:
            return []
        return found


def _of_the_same(one: Manifest, other: Manifest) -> bool:
    """Whether two snapshots are of one checkpoint."""
    return (one.incarnation, one.sequence, one.positions) == (
        other.incarnation,
        other.sequence,
        other.positions,
    )


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _name_of(raw: bytes) -> str:
    return f"{hashlib.sha256(raw).hexdigest()}.json"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
