"""What a partition knows of the producers that write to it: epochs and sequence numbers (KIP-98).

A batch that was sent twice is recognised among a producer's last five (the most that may be in
flight) and answered with its first offset; a gap is refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from .batches import Header
from .errors import ErrorCode, Refused

REMEMBERED: Final = 5
_NO_SEQUENCE: Final = -1


@dataclass(slots=True)
class Producer:
    """One producer's last batches: first sequence, last sequence, base offset, append time."""

    epoch: int
    last_seen: int
    last_sequence: int = _NO_SEQUENCE
    batches: deque[tuple[int, int, int, int]] = field(
        default_factory=lambda: deque(maxlen=REMEMBERED)
    )


class Producers:
    """The producers of one partition, by producer id."""

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[int, Producer] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, producer_id: int) -> Producer | None:
        return self._by_id.get(producer_id)

    def check(self, header: Header) -> tuple[int, int] | None:
        """None if the batch comes next; base offset and append time if it is here already.

        Raises `Refused`: INVALID_PRODUCER_EPOCH from a fenced producer, OUT_OF_ORDER_SEQUENCE
        on a gap. A producer that is not known may begin anywhere: its batches may be deleted.
        """
        producer = self._by_id.get(header.producer_id)
        if producer is None:
            return None
        if header.producer_epoch < producer.epoch:
            raise Refused(
                ErrorCode.invalid_producer_epoch,
                f"producer {header.producer_id} has epoch {producer.epoch} by now, "
                f"not {header.producer_epoch}",
            )
        if header.producer_epoch > producer.epoch:
            if header.base_sequence != 0:
                raise Refused(
                    ErrorCode.out_of_order_sequence_number,
                    f"producer {header.producer_id} begins epoch {header.producer_epoch} "
                    f"with sequence {header.base_sequence}",
                )
            return None
        for first, last, offset, time in producer.batches:
            if first == header.base_sequence and last == header.last_sequence:
                return offset, time
        expected = (producer.last_sequence + 1) & 0x7FFFFFFF
        if producer.last_sequence != _NO_SEQUENCE and header.base_sequence != expected:
            raise Refused(
                ErrorCode.out_of_order_sequence_number,
                f"producer {header.producer_id} sent sequence {header.base_sequence}, "
                f"{expected} comes next",
            )
        return None

    def note(self, header: Header, base_offset: int, time: int, now: int) -> None:
        """Remember a data batch; `time` is the append time to answer a duplicate with."""
        producer = self._by_id.get(header.producer_id)
        if producer is None or producer.epoch != header.producer_epoch:
            producer = Producer(epoch=header.producer_epoch, last_seen=now)
            self._by_id[header.producer_id] = producer
        producer.last_seen = now
        producer.last_sequence = header.last_sequence
        producer.batches.append((header.base_sequence, header.last_sequence, base_offset, time))

    def note_marker(self, producer_id: int, epoch: int, now: int) -> None:
        """Remember a marker: one of a higher epoch fences, and sequences begin anew."""
        producer = self._by_id.get(producer_id)
        if producer is None or producer.epoch < epoch:
            self._by_id[producer_id] = Producer(epoch=epoch, last_seen=now)
        else:
            producer.last_seen = now

    def forget_before(self, time: int, keep: set[int]) -> None:
        """Forget who has not written since `time` (milliseconds), but for those in `keep`."""
        for producer_id, producer in list(self._by_id.items()):
            if producer.last_seen < time and producer_id not in keep:
                del self._by_id[producer_id]
