"""Where a topology that is reset begins to read its sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Self

from aiokafka import TopicPartition

from streamapp.engine.key_by import KeyBy
from streamapp.engine.topology import Topology
from streamapp.errors import ConfigurationError
from streamapp.ledger.reading import LedgerReader

__all__ = ["Beginning"]


class Beginning(NamedTuple):
    """A place in every partition: `earliest`, `latest`, or a time, in milliseconds."""

    place: str = "earliest"
    at: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a command line says: `earliest`, `latest`, milliseconds, or an ISO 8601 time.

        A time without an offset is UTC.

        Raises:
            ConfigurationError: it is none of these.
        """
        if text in ("earliest", "latest"):
            return cls(text)
        if text.isdecimal():
            return cls(text, int(text))
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigurationError(
                f"{text!r} is neither earliest, latest, nor a time: 2026-11-21T07:30:00Z, or milliseconds since 1970"
            ) from None
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        return cls(text, round(found.timestamp() * 1000))

    async def offsets(
        self, reader: LedgerReader, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the offsets in partitions; where nothing is as young as the time, their ends."""
        if self.at is None:
            find = reader.begins if self.place == "earliest" else reader.ends
            return await find(partitions)
        ends = await reader.ends(partitions)
        found = await reader.consumer.offsets_for_times(dict.fromkeys(partitions, self.at))
        return {tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in partitions}


async def begins_of(
    reader: LedgerReader, topology: Topology, partitions: Iterable[TopicPartition], at: Beginning
) -> dict[TopicPartition, int]:
    """Return where a topology begins in the partitions of its sources.

    What is in a repartition topic was sent before the reset, by a topology that is reset as well and
    sends it again: it is left out, wherever the others begin.
    """
    between = {source.name for source in topology.sources if isinstance(source, KeyBy)}
    found = list(partitions)
    return {
        **await at.offsets(reader, [tp for tp in found if tp.topic not in between]),
        **await Beginning("latest").offsets(reader, [tp for tp in found if tp.topic in between]),
    }
