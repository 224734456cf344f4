"""A replayed batch for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faust
import msgspec

from streamapp.ledger.rendering import time_text
from streamapp.ledger.replay import Emitted, Replay, Written

__all__ = ["replay_json", "replay_text"]


def replay_json(replay: Replay) -> dict[str, Any]:
    """Return a replay as JSON has it; what JSON has no word for is as `repr` shows it."""
    bare = msgspec.structs.replace(replay, emitted=(), written=())
    return {
        **msgspec.to_builtins(bare),
        "emitted": [_plain_fields(each) for each in replay.emitted],
        "written": [_plain_fields(each) for each in replay.written],
    }


def _plain_fields(struct: Emitted | Written) -> dict[str, Any]:
    return {name: _plain(value) for name, value in msgspec.structs.asdict(struct).items()}


def _plain(value: Any) -> Any:
    """Return a decoded key or value as JSON's own types: bytes as text."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, faust.Record):
        value = value.asdict()
    return msgspec.to_builtins(value, enc_hook=repr, str_keys=True)


def replay_text(replay: Replay) -> str:
    """Return a replay as lines: where it ran, what it would send and write, and what is unsure."""
    return "\n".join(_lines(replay))


def _lines(replay: Replay) -> Iterator[str]:
    state = (
        f"state before it from {replay.restored} changelog records"
        if replay.state == "before"
        else "empty tables"
    )
    yield f"{replay.id} again, by {replay.agent}: {replay.records} records, {state}"
    entry = replay.entry
    if entry is not None:
        yield (
            f"then: checkpoint {entry.sequence} of worker {entry.worker}, epoch {entry.epoch}, {time_text(entry.at)}, "
            f"{entry.outputs} outputs, {entry.changes} changes"
        )
    yield f"it would send {len(replay.emitted)}:"
    for emitted in replay.emitted:
        yield f"  {_sent(emitted)}"
    yield f"it would write {len(replay.written)}:"
    for written in replay.written:
        yield f"  {_change(written)}"
    if replay.late:
        yield f"late: {replay.late}"
    if replay.dead_letters:
        yield f"dead letters: {replay.dead_letters}"
    if replay.unsure:
        yield (
            f"unsure: {', '.join(replay.unsure)}: read, and the changelog has them only from this batch on; they were "
            "new then, or what they held was compacted away"
        )
    for note in replay.notes:
        yield f"note: {note}"


def _sent(emitted: Emitted) -> str:
    where = "" if emitted.partition is None else f"[{emitted.partition}]"
    key = "" if emitted.key is None else f" {_shown(emitted.key)}:"
    return f"{emitted.topic}{where}{key} {_shown(emitted.value)}"


def _change(written: Written) -> str:
    pane = "" if written.pane is None else f" at {time_text(written.pane)}"
    old = "unsure" if written.unsure else _shown(written.old)
    return f"{written.table}[{_shown(written.key)}]{pane}: {old} → {_shown(written.new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(_plain(value)) if isinstance(value, bytes) else str(value)
