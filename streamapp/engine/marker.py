"""What a checkpoint writes beside outputs and changelogs: its marker, and its line in the ledger."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeVar

import msgspec

from streamapp.errors import StoreError

__all__ = [
    "FORMAT",
    "MARKER_KEY",
    "LedgerBatch",
    "LedgerEntry",
    "LedgerJump",
    "Marker",
    "Progress",
    "checked",
    "decode_entry",
    "decode_marker",
    "new_incarnation",
]

_Decoded = TypeVar("_Decoded")

#: The version of markers and ledger entries; another one is refused.
FORMAT = 1

#: The one key of the checkpoint topic: compaction keeps each partition's latest marker.
MARKER_KEY = b"checkpoint"


class Marker(msgspec.Struct, kw_only=True):
    """Where a task stands after a checkpoint: one record of the topology's compacted checkpoint topic.

    Attributes:
        app: the id of the application whose task it is, which the topic's name does not tell for sure.
            Empty in markers of versions that did not say.
        incarnation: a random name that a task's state has from its first marker on: where its topics
            are made anew, it gets another one, and old copies of the state are known by theirs. Empty
            in markers of versions that gave none.
        replaces: the incarnation that a reset gave up for this one.
        reset: whether there was a reset: copies without a name are of what was before it.
        tables: a name of the same kind for each table that there was at this checkpoint: one that is
            taken out and comes back has another.
        sequence: checkpoints of this task so far.
        sources: the next offset of each source topic.
        marks: the watermark of each source partition, in milliseconds, by `topic` or
            `topic<upstream/task`.
        idle: the marks of upstream tasks that said they are idle.
        watermark: the task's own; it never goes back.
        closed: up to which watermark each windowed table has closed its windows.
        windows: `[size, step]` of each windowed table, in milliseconds: panes of another shape mean
            something else.
        changelogs: where each changelog ended after the checkpoint *before* this one.
        changes: how many records this checkpoint itself has written to each changelog.
        begins: where changelogs began whose front was cut, when a reset gave up what was in it.
        resetting: the task is being reset: its state is half of one, and no worker opens it.
    """

    format: int = FORMAT
    app: str = ""
    incarnation: str = ""
    replaces: str = ""
    reset: bool = False
    tables: dict[str, str] = {}
    sequence: int = 0
    sources: dict[str, int] = {}
    marks: dict[str, int] = {}
    idle: list[str] = []
    watermark: int | None = None
    closed: dict[str, int] = {}
    windows: dict[str, tuple[int, int]] = {}
    changelogs: dict[str, int] = {}
    changes: dict[str, int] = {}
    begins: dict[str, int] = {}
    resetting: bool = False

    def least_end(self, table: str) -> int:
        """Return the offset that a changelog has reached with this checkpoint, if it is still the same one."""
        return self.changelogs.get(table, 0) + self.changes.get(table, 0)


def new_incarnation() -> str:
    """Return a name for a state that begins."""
    return uuid.uuid4().hex


class Progress(msgspec.Struct, kw_only=True):
    """What a state store knows of itself: the marker that it is at, and where to restore from."""

    marker: Marker
    #: The next offset of each table's changelog that the store does not hold yet.
    positions: dict[str, int]
    #: When it last held all that there was, in milliseconds: compaction may take deletes that were
    #: made since.
    at: int = 0


class LedgerBatch(
    msgspec.Struct, kw_only=True, rename={"from_offset": "from", "until_offset": "until"}
):
    """One source partition's part of a checkpoint."""

    topic: str
    partition: int
    from_offset: int
    until_offset: int
    records: int


class LedgerJump(
    msgspec.Struct,
    kw_only=True,
    frozen=True,
    rename={"from_offset": "from", "until_offset": "until"},
):
    """A source partition that went on elsewhere than where it was read to.

    In a checkpoint, the offsets in between are lost, and lie within one of its ranges; in a reset,
    the next range begins at `until_offset`, which may be before `from_offset`.
    """

    topic: str
    partition: int
    from_offset: int
    until_offset: int
    why: str


class LedgerEntry(msgspec.Struct, kw_only=True):
    """One checkpoint in the ledger. Times are milliseconds since the epoch, durations milliseconds.

    `kind` is `checkpoint`; `offsets` for one that moves the offsets alone, before its records are
    processed (at most once) or before the first of them; `reset`, which has jumps and no batches; or
    `renamed`, which is a reset that follows entries under another name, in another ledger.

    `changelogs` is where each table's changelog ended before this checkpoint: the state that its
    batches found. `previous_commit` is how long the checkpoint before this one took to commit: its
    own is not known yet when it is written.
    """

    format: int = FORMAT
    kind: str = "checkpoint"
    topology: str
    partition: int
    sequence: int
    worker: str
    epoch: int
    guarantee: str
    at: int
    batches: list[LedgerBatch]
    jumps: list[LedgerJump] = []
    outputs: int = 0
    changes: int = 0
    late: int = 0
    dead_letters: int = 0
    watermark: int | None = None
    changelogs: dict[str, int] = {}
    processing: float = 0.0
    previous_commit: float | None = None

    @property
    def begins_anew(self) -> bool:
        """Whether what follows does not go on from what is before it."""
        return self.kind in ("reset", "renamed")


_encode = msgspec.json.Encoder().encode
_decode_marker = msgspec.json.Decoder(Marker).decode
_decode_progress = msgspec.json.Decoder(Progress).decode
_decode_entry = msgspec.json.Decoder(LedgerEntry).decode


def encode(item: Marker | LedgerEntry | Progress) -> bytes:
    """Return a marker, an entry or a progress as JSON."""
    return _encode(item)


class _Version(msgspec.Struct):
    """What every format says first of all, whatever else it has."""

    format: int = FORMAT
    marker: _Version | None = None


_decode_version = msgspec.json.Decoder(_Version).decode


def checked(
    decode: Callable[[bytes], _Decoded], raw: bytes, where: str, expected: int = FORMAT
) -> _Decoded:
    """Decode something, and refuse what another version wrote, also where its fields are of other types.

    Arguments:
        where: names it.
        expected: the version of its format.

    Raises:
        StoreError: it is of another format, or none of ours.
    """
    try:
        version = _decode_version(raw)
        found = version.format if version.marker is None else version.marker.format
        if found == expected:
            return decode(raw)
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"{where} is not what streamapp writes ({error}): somebody else has written to it, or it is damaged"
        ) from error
    raise StoreError(
        f"{where} has format {found}, this version of streamapp reads {expected}: run the version that wrote it"
    )


def decode_marker(raw: bytes, where: str) -> Marker:
    """Return a marker.

    Raises:
        StoreError: it is of another format; `where` says which one.
    """
    return checked(_decode_marker, raw, where)


def decode_progress(raw: bytes, where: str) -> Progress:
    """Return a store's progress; raises as `decode_marker`."""
    return checked(_decode_progress, raw, where)


def decode_entry(raw: bytes, where: str) -> LedgerEntry:
    """Return an entry of the ledger; raises as `decode_marker`."""
    return checked(_decode_entry, raw, where)
