"""Parts of a batch: how the record that is to blame is found.

A batch that has failed is divided, and its parts are processed in order, each in a checkpoint of
its own, so that their ranges meet as those of batches do. The record at hand is the first suspect;
when there is none, the batch is halved. What fails alone is condemned: it goes to the dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamapp.engine.agent import BatchAgent
from streamapp.engine.checkpoint import Slice
from streamapp.engine.key_by import is_mark

__all__ = ["Fault", "Part", "condemned_batch", "condemned_record", "suspected"]


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception in a batch, and where it was raised.

    Attributes:
        agent: the agent that was at work, `None` when it was none.
        topic: the source whose records it had.
        offset: of the record at hand.
        in_window: while windows were closed: no record is to blame.
    """

    error: Exception
    agent: BatchAgent | None = None
    topic: str | None = None
    offset: int | None = None
    in_window: bool = False

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


class _Place(NamedTuple):
    """A record of a part: the numbers of its slice and, there, its own, and which one it is."""

    slice: int
    number: int
    topic: str
    offset: int


class Part(NamedTuple):
    """What is processed in one checkpoint.

    Attributes:
        again: it has failed before, alone or within a larger part.
        condemned: why its records go to the dead letters, unseen by agents.
    """

    slices: Sequence[Slice]
    again: bool = False
    condemned: Fault | None = None

    @property
    def places(self) -> list[_Place]:
        """Where its records are; the engine's own marks are none."""
        return [
            _Place(slice_number, number, part.topic, record.offset)
            for slice_number, part in enumerate(self.slices)
            for number, record in enumerate(part.records)
            if not is_mark(record)
        ]


def suspected(part: Part, fault: Fault) -> list[Part]:
    """Return the parts of one that has failed: up to the suspect, it alone, and the rest.

    Without a record at hand they are its halves. A part of one record is tried again as it is.
    """
    places = part.places
    at_hand = [
        number
        for number, place in enumerate(places)
        if (place.topic, place.offset) == (fault.topic, fault.offset)
    ]
    cuts = [at_hand[0], at_hand[0] + 1] if at_hand else [len(places) // 2]
    pieces = [list(part.slices)]
    for cut in reversed(cuts):
        if 0 < cut < len(places):
            pieces[:1] = _cut(pieces[0], places[cut])
    return [Part(piece, again=True) for piece in pieces]


def _cut(slices: list[Slice], place: _Place) -> list[list[Slice]]:
    """Return what is before a record, and the rest."""
    before, after = slices[: place.slice], slices[place.slice + 1 :]
    whole, number = slices[place.slice], place.number
    if number == 0:
        return [before, [whole, *after]]
    lost_before = sum(begin < place.offset for begin, _ in whole.lost)
    head = whole._replace(
        until_offset=place.offset, records=whole.records[:number], lost=whole.lost[:lost_before]
    )
    tail = whole._replace(
        from_offset=place.offset, records=whole.records[number:], lost=whole.lost[lost_before:]
    )
    return [[*before, head], [tail, *after]]


def condemned_batch(part: Part, fault: Fault) -> list[Part]:
    """Return the parts of one of which the batch that failed is condemned, others' topics are not."""
    numbers = [n for n, piece in enumerate(part.slices) if piece.topic == fault.topic]
    if not numbers:
        return [part._replace(condemned=fault)]
    [number] = numbers
    pieces = [
        Part(part.slices[:number]),
        Part(part.slices[number : number + 1], condemned=fault),
        Part(part.slices[number + 1 :]),
    ]
    return [piece for piece in pieces if piece.slices]


def condemned_record(part: Part, fault: Fault) -> Part | None:
    """Return a part of the same ranges that has but the record at hand, or its only one, condemned.

    `None` when it is not known which one that is.
    """
    places = part.places
    guilty = {
        (place.topic, place.offset)
        for place in places
        if len(places) == 1 or (place.topic, place.offset) == (fault.topic, fault.offset)
    }
    if not guilty:
        return None
    slices = [
        piece._replace(records=[r for r in piece.records if (piece.topic, r.offset) in guilty])
        for piece in part.slices
    ]
    return Part(slices, condemned=fault)
