"""Copies of a task's state, and whether they are still of the state that the task has.

A store on disk, what a standby has followed, a snapshot: each holds the changelogs up to some
offsets. It can be brought up to the last checkpoint if the changelogs have all that came behind
these offsets, and are the same ones still. Offsets alone do not tell: a topic that was made anew
outgrows them. So a state has a random name from its first marker on, its incarnation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from streamapp.engine.marker import Marker

__all__ = ["Span", "why_outdated"]


class Span(NamedTuple):
    """Where a changelog begins and ends."""

    begin: int
    end: int


def why_outdated(
    incarnation: str, positions: Mapping[str, int], marker: Marker, spans: Mapping[str, Span]
) -> str | None:
    """Return why a copy cannot be brought up to a task's last checkpoint; `None` if it can.

    Whether it is beyond that checkpoint is another question.

    Arguments:
        incarnation: of the copy; empty if a version wrote it that gave none.
        positions: the next offset of each table's changelog that the copy does not hold.
        marker: the task's last.
        spans: of its changelogs, by table.
    """
    if incarnation and marker.incarnation and incarnation != marker.incarnation:
        return (
            f"it is of the incarnation {incarnation} of this state, which is now {marker.incarnation}: the state "
            "was begun anew since"
        )
    for table, position in positions.items():
        if table in spans and position < spans[table].begin:
            return f"it holds the changelog of {table} up to {position}, and that begins at {spans[table].begin} by now"
    return None
