"""The entry that a reset leaves: where a task stood, where it begins again, and why."""

from __future__ import annotations

from collections.abc import Mapping

from streamapp.engine.marker import LedgerEntry, LedgerJump, Marker

__all__ = ["reset_entry"]


def reset_entry(
    topology: str,
    partition: int,
    before: Marker,
    begins: Mapping[str, int],
    *,
    why: str,
    worker: str,
    guarantee: str,
    at: int,
    kind: str = "reset",
) -> LedgerEntry:
    """Return the entry of a reset; it belongs into the transaction of the marker that resets.

    Its sequence follows the last checkpoint's, and so does that marker's: what it skips or repeats is
    meant, and the proof begins anew behind it.

    Arguments:
        before: the task's last marker.
        begins: where each source that is reset begins again.
        why: for whoever reads the audit.
        worker: who does it.
        at: the time, in milliseconds.
        kind: `renamed` where the entries before it are in the ledger of another name.
    """
    return LedgerEntry(
        kind=kind,
        topology=topology,
        partition=partition,
        sequence=before.sequence + 1,
        worker=worker,
        epoch=0,
        guarantee=guarantee,
        at=at,
        batches=[],
        jumps=[
            LedgerJump(
                topic=topic,
                partition=partition,
                from_offset=before.sources.get(topic, offset),
                until_offset=offset,
                why=why,
            )
            for topic, offset in begins.items()
        ],
    )
