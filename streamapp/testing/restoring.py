"""What a new owner of a task does first, on a log in memory: find the marker, apply the changelogs."""

from __future__ import annotations

from streamapp.engine.foreach import decode_intent
from streamapp.engine.marker import Marker, Progress, decode_marker, decode_progress, encode
from streamapp.engine.task import Task
from streamapp.state.store import Store, TableWrites
from streamapp.testing.log import Log

__all__ = ["latest_marker", "restore"]


def latest_marker(log: Log, topic: str, partition: int) -> Marker | None:
    """Return the marker of the last committed checkpoint, or `None` before the first."""
    written = log.read(topic, partition)
    if not written:
        return None
    value = written[-1].value
    assert value is not None
    return decode_marker(value, f"the marker {topic}[{partition}]")


def restore(task: Task, store: Store, log: Log) -> None:
    """Bring a task and its store to the last committed checkpoint, from the store's own position."""
    topology, partition = task.topology, task.partition
    marker = latest_marker(log, topology.checkpoint_topic, partition) or Marker()
    marker.sources = {source.name: 0 for source in topology.sources} | marker.sources
    raw = store.progress
    known = {} if raw is None else decode_progress(raw, f"the store {store.path}").positions
    positions: dict[str, int] = {}
    writes = []
    for table in topology.tables:
        changelog = log.read(topology.changelog(table.name), partition)
        tail = changelog[known.get(table.name, 0) :]
        positions[table.name] = len(changelog)
        latest = {record.key or b"": record.value for record in tail}
        writes.append(
            TableWrites(
                table.name,
                puts=[(key, value) for key, value in latest.items() if value is not None],
                deletes=[key for key, value in latest.items() if value is None],
            )
        )
    store.write(writes, encode(Progress(marker=marker, positions=positions)))
    task.restored(marker, positions)
    intents = log.read(topology.intents_topic, partition) if topology.presents else ()
    if intents:
        value = intents[-1].value
        assert value is not None
        task.announced(decode_intent(value, f"the intent of {task.name}"))
