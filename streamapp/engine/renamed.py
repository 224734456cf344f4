"""A topology that was renamed: what it left under its old name is not given up in silence.

Group, markers and transactional ids are named after a topology, changelogs after tables. Under another
name it would begin anew, on tables that have the old state: everything would be counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aiokafka.admin import AIOKafkaAdminClient

from streamapp.engine.compacted import last_markers
from streamapp.engine.marker import Marker
from streamapp.engine.provision import inspect
from streamapp.engine.readers import Readers
from streamapp.engine.topology import Topology
from streamapp.errors import ConfigurationError

__all__ = ["refuse_renamed"]

_SUFFIX = "-checkpoint"


async def refuse_renamed(
    admin: AIOKafkaAdminClient, readers: Readers, topologies: Sequence[Topology]
) -> None:
    """Raise if a topology has no checkpoint and one that is not declared any more has left it one.

    Raises:
        ConfigurationError: with the commands that go on from that state, or begin anew.
    """
    if not topologies:
        return
    prefix = f"{topologies[0].app_id}-"
    declared = {topology.checkpoint_topic for topology in topologies}
    there = set(await admin.list_topics())
    left = [
        name
        for name in there - declared
        if name.startswith(prefix) and name.endswith(_SUFFIX) and len(name) > len(prefix + _SUFFIX)
    ]
    if not left:
        return
    counts = (await inspect(admin, [*left, *(declared & there)])).partitions
    async with readers.reader() as reader:
        markers = await last_markers(reader, counts)
    for topology in topologies:
        own = markers.get(topology.checkpoint_topic, {})
        for name in sorted(left):
            theirs = markers.get(name, {})
            if theirs.keys() <= own.keys() or not _is_of(topology, theirs, there):
                continue
            old = name.removeprefix(prefix).removesuffix(_SUFFIX)
            raise ConfigurationError(
                f"the topology {topology.name} has no checkpoint, and {old}, which no agent belongs to any more, has left "
                f"the state of {_whose(topology)}: was it renamed? Go on from that state: streamapp migrate rename {old} "
                f"{topology.name}; or begin anew, with empty tables: streamapp reset {topology.name}"
            )


def _is_of(topology: Topology, markers: Mapping[int, Marker], topics: Iterable[str]) -> bool:
    """Whether markers are those of a topology under another name: they tell its tables and its sources.

    An application whose name begins with this one's, and a dash, has checkpoints in topics whose names
    look like ours, and changelogs of other names.
    """
    if any(marker.app not in ("", topology.app_id) for marker in markers.values()):
        return False
    tables = {
        table for marker in markers.values() for table in (*marker.changelogs, *marker.windows)
    }
    if tables:
        return any(
            table.name in tables and topology.changelog(table.name) in topics
            for table in topology.tables
        )
    sources = {source for marker in markers.values() for source in marker.sources}
    return not topology.tables and sources == {source.name for source in topology.sources}


def _whose(topology: Topology) -> str:
    names = ", ".join(table.name for table in topology.tables)
    return f"its tables {names}" if names else "its sources"
