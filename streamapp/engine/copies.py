"""Copies of a task's state, and whether they are still of the state that the task has.

A store on disk, what a standby has followed, a snapshot: each holds the changelogs up to some
offsets. It can be brought up to the last checkpoint if the changelogs have all that came behind
these offsets, and are the same ones still. Offsets alone do not tell: a topic that was made anew
outgrows them. So a state has a random name from its first marker on, its incarnation, and so has
each of its tables. A copy without names was made by a version that gave none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from streamapp.engine.marker import Marker, Progress

__all__ = ["Span", "positions_in", "why_of_another_state", "why_outdated"]


class Span(NamedTuple):
    """Where a changelog begins and ends."""

    begin: int
    end: int


def why_of_another_state(incarnation: str, marker: Marker) -> str | None:
    """Return why a copy of an incarnation is not of the state that a marker stands for; `None` if it may be.

    After a reset, a copy without a name is of what was before.
    """
    if incarnation == marker.incarnation or not marker.incarnation:
        return None
    if not incarnation and not marker.reset:
        return None
    return (
        f"it is of the incarnation {incarnation or 'without a name'} of this state, which is now "
        f"{marker.incarnation}: the state was begun anew since"
    )


def positions_in(copy: Progress | None, marker: Marker) -> dict[str, int]:
    """Return up to where a copy holds the changelogs, of the tables that are the same ones still.

    A table that either has no name for is another one: it was taken out since, or had not come yet.
    """
    if copy is None:
        return {}
    if not copy.marker.incarnation or not marker.incarnation:  # by a version that gave no names
        return dict(copy.positions)
    then, now = copy.marker.tables, marker.tables
    return {
        table: position
        for table, position in copy.positions.items()
        if table in then and then[table] == now.get(table)
    }


def why_outdated(copy: Progress, marker: Marker, spans: Mapping[str, Span]) -> str | None:
    """Return why a copy cannot be brought up to a task's last checkpoint; `None` if it can.

    Whether it is beyond that checkpoint is another question.

    Arguments:
        marker: the task's last.
        spans: of its changelogs, by table.
    """
    why = why_of_another_state(copy.marker.incarnation, marker)
    if why is not None:
        return why
    for table, position in positions_in(copy, marker).items():
        if table in spans and position < spans[table].begin:
            return f"it holds the changelog of {table} up to {position}, and that begins at {spans[table].begin} by now"
    return None
