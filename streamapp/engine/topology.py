"""Topologies: batch agents that share tables, and what follows from them.

A topology has a consumer group of its own, a task a partition number, a checkpoint topic and a
ledger; all are named after it, so its name is part of the state's format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from streamapp.engine.agent import BatchAgent, tables_of, used_by
from streamapp.engine.foreach import ForeachBatch
from streamapp.engine.key_by import KeyBy
from streamapp.engine.topic import Topic
from streamapp.errors import ConfigurationError
from streamapp.state.table import Table, WindowedTable

__all__ = ["Topology", "build_topologies"]

_LEGAL_NAME = re.compile(r"(?!\.+$)[a-zA-Z0-9._-]{1,200}")


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """A topology of an application.

    Attributes:
        feeds: for each repartition topic among its sources, the topologies that write to it.
    """

    app_id: str
    name: str
    agents: tuple[BatchAgent, ...]
    tables: tuple[Table[Any], ...]
    key_bys: tuple[KeyBy, ...]
    feeds: dict[str, list[Topology]] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The consumer group."""
        return f"{self.app_id}-{self.name}"

    @property
    def checkpoint_topic(self) -> str:
        """The compacted topic of markers."""
        return f"{self.app_id}-{self.name}-checkpoint"

    @property
    def ledger_topic(self) -> str:
        """The topic of ledger entries."""
        return f"{self.app_id}-{self.name}-ledger"

    @property
    def intents_topic(self) -> str:
        """The compacted topic of what a `foreach_batch` is about to be given."""
        return f"{self.app_id}-{self.name}-intents"

    @property
    def presents(self) -> bool:
        """Whether it is a `foreach_batch`."""
        return any(isinstance(agent, ForeachBatch) for agent in self.agents)

    @property
    def following(self) -> str:
        """What lets it follow a source that grew, for a message."""
        if not self.tables:
            return f"let it follow: streamapp migrate partitions {self.name}"
        return (
            f"begin anew, and fill its tables from the source again: streamapp reset {self.name} (their state cannot be "
            "moved to where its records go now)"
        )

    def changelog(self, table: str) -> str:
        """Return the changelog topic of a table."""
        return f"{self.app_id}-{table}-changelog"

    def transactional_id(self, partition: int) -> str:
        """Return the stable transactional id of a task: starting a producer under it fences."""
        return f"{self.app_id}-{self.name}-{partition}"

    @property
    def sources(self) -> tuple[Topic, ...]:
        """The source topics, each once."""
        return tuple({agent.topic.name: agent.topic for agent in self.agents}.values())

    @property
    def outputs(self) -> dict[str, Topic]:
        """The topics that it sends to, as far as its declaration tells; no `key_by`."""
        found: list[Any] = [sink for agent in self.agents for sink in agent.sinks]
        found += [
            used for agent in self.agents for used in used_by(agent) if isinstance(used, Topic)
        ]
        for table in self.tables:
            found += [
                getattr(table, name, None)
                for name in ("final_topic", "updates_topic", "late_topic")
            ]
        return {
            topic.name: topic
            for topic in found
            if topic is not None and not isinstance(topic, KeyBy)
        }

    @property
    def windowed(self) -> bool:
        """Whether event time matters to it: a table has windows, or what it sends carries time."""
        return bool(self.key_bys) or any(hasattr(table, "spec") for table in self.tables)

    @property
    def within(self) -> float:
        """Seconds after the first record at which a batch is processed."""
        return min(agent.within for agent in self.agents)

    @property
    def max_records(self) -> int:
        """Records at which a batch is processed."""
        return min(agent.max_records for agent in self.agents)


def build_topologies(app_id: str, agents: Iterable[BatchAgent]) -> list[Topology]:
    """Return the topologies of an application's agents, in the order of declaration.

    Raises:
        ConfigurationError: a name that no topic can have; two topologies share a table; a `key_by`
            is read by nobody; or topologies feed each other in a circle that windows depend on.
    """
    grouped: dict[str, list[BatchAgent]] = {}
    for agent in agents:
        grouped.setdefault(agent.topology, []).append(agent)
    topologies = []
    owner: dict[str, str] = {}
    for name, members in grouped.items():
        if not _LEGAL_NAME.fullmatch(name):
            raise ConfigurationError(
                f"a topology's name is part of its topics': letters, digits, '.', '_' and '-', not {name!r}; "
                "give the batch agent another name, or topology='…'"
            )
        if len(members) > 1 and any(isinstance(agent, ForeachBatch) for agent in members):
            raise ConfigurationError(
                f"a foreach_batch has a topology of its own, and {name!r} has several members: give the batch "
                "agents another topology='…'"
            )
        tables = {table.name: table for agent in members for table in tables_of(agent)}
        for table in tables:
            if table in owner:
                raise ConfigurationError(
                    f"the batch agents of {owner[table]!r} and {name!r} share the table {table!r}: a table belongs to "
                    f"one topology; give these agents the same one, @app.batch_agent(…, topology={name!r})"
                )
            owner[table] = name
        key_bys = {
            used.name: used
            for agent in members
            for used in used_by(agent)
            if isinstance(used, KeyBy)
        }
        topologies.append(
            Topology(
                app_id,
                name,
                tuple(members),
                tuple(tables[key] for key in sorted(tables)),
                tuple(key_bys[key] for key in sorted(key_bys)),
            )
        )
    _link(topologies)
    return topologies


def _link(topologies: list[Topology]) -> None:
    for topology in topologies:
        for source in topology.sources:
            if isinstance(source, KeyBy):
                topology.feeds[source.name] = [
                    upstream
                    for upstream in topologies
                    if any(k.name == source.name for k in upstream.key_bys)
                ]
    read = {source.name for topology in topologies for source in topology.sources}
    for topology in topologies:
        for key_by in topology.key_bys:
            if key_by.name not in read:
                raise ConfigurationError(
                    f"the topology {topology.name} sends to {key_by.name}, and no batch agent reads it: "
                    "declare one, @app.batch_agent(the key_by)"
                )
        _check_time_flows(topology, topologies)


def _check_time_flows(topology: Topology, topologies: list[Topology]) -> None:
    """Refuse a circle of topologies with windows behind it: each would wait for its own watermark."""
    below: list[Topology] = []
    ahead = [topology]
    while ahead:
        sends = {key_by.name for key_by in ahead.pop().key_bys}
        found = [t for t in topologies if t not in below and sends & t.feeds.keys()]
        below += found
        ahead += found
    windowed = [table.name for t in below for table in t.tables if isinstance(table, WindowedTable)]
    if topology in below and windowed:
        raise ConfigurationError(
            f"what the topology {topology.name} sends with key_by comes back to it, so the windows of "
            f"{', '.join(sorted(windowed))} would wait for themselves and never close: let the agents on both sides "
            "of a key_by be of different topologies"
        )
