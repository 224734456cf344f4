"""Finding the last value of a key in a compacted topic that has few keys: it is near the end."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import TopicPartition

from streamapp.engine.marker import MARKER_KEY, Marker, decode_marker
from streamapp.engine.readers import Reader
from streamapp.errors import StoreError

__all__ = ["last_marker", "last_markers", "last_value"]

_FIRST_STEP = 64
_GROWTH = 16


async def last_value(
    reader: Reader, tp: TopicPartition, key: bytes, begin: int, end: int
) -> tuple[bytes, str] | None:
    """Return the last value of a key in `[begin, end)`, and where it is for a message.

    Reads backwards from the end in growing steps; the reader is assigned the partition.
    """
    step = _FIRST_STEP
    start = end
    while start > begin:
        start = position = max(begin, end - step)
        step *= _GROWTH
        found = None
        reader.read(tp, start)
        while position < end:
            fetched, positions = await reader.fetch(tp)
            position = positions[tp]
            for record in fetched.get(tp, ()):
                # A fetch brings what was committed since, too.
                if record.key == key and record.value is not None and record.offset < end:
                    found = record
        if found is not None:
            return found.value, f"{tp.topic}[{tp.partition}] at offset {found.offset}"
    return None


async def last_marker(reader: Reader, marks: TopicPartition, name: str, within: float) -> Marker:
    """Return the last marker of a task, once no transaction is open there that began before.

    Arguments:
        marks: its partition of the checkpoint topic.
        name: who asks, for the log.
        within: for how long to wait, in seconds.

    Raises:
        StoreError: there is none, or it is of another format.
        TaskClosed: a transaction is open for longer.
    """
    reader.assign([marks])
    begins, ends = await reader.begins([marks]), await reader.stable_ends([marks], name, within)
    found = await last_value(reader, marks, MARKER_KEY, begins[marks], ends[marks])
    if found is None:
        raise StoreError(f"{marks.topic}[{marks.partition}] has no checkpoint")
    return decode_marker(found[0], f"the marker {found[1]}")


async def last_markers(
    reader: Reader, partitions: Mapping[str, int]
) -> dict[str, dict[int, Marker]]:
    """Return the last committed markers of checkpoint topics, by topic and partition.

    Arguments:
        partitions: how many each topic has.

    Raises:
        StoreError: one is of another format.
    """
    tps = [
        TopicPartition(topic, number) for topic in partitions for number in range(partitions[topic])
    ]
    markers: dict[str, dict[int, Marker]] = {topic: {} for topic in partitions}
    reader.assign(tps)
    begins, ends = await reader.begins(tps), await reader.ends(tps)
    for tp in tps:
        found = await last_value(reader, tp, MARKER_KEY, begins[tp], ends[tp])
        reader.rest()
        if found is not None:
            markers[tp.topic][tp.partition] = decode_marker(found[0], f"the marker {found[1]}")
    return markers
