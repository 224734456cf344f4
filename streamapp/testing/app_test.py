"""The harness: an application's batch agents and tables, on a log in memory and a clock of the test's.

What runs is the engine's own `Task`, on real stores in a temporary directory; only Kafka and the
clock are replaced. So what a test sees (what is committed together, what an exception takes back,
when a window closes, what a restart finds) is what a worker does.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import Token
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from streamapp.engine.agent import BatchAgent
from streamapp.engine.checkpoint import Surroundings
from streamapp.engine.context import current_outbox
from streamapp.engine.dead_letters import DeadLetter, read_dead_letter
from streamapp.engine.key_by import KeyBy, is_mark
from streamapp.engine.marker import LedgerEntry, Marker
from streamapp.engine.outbox import Outbox, Outgoing
from streamapp.engine.settings import Guarantee
from streamapp.engine.topic import Topic
from streamapp.engine.topology import Topology, build_topologies
from streamapp.errors import ConfigurationError, StreamappError, TableError
from streamapp.state.table import Table, WindowedTable
from streamapp.state.time import to_milliseconds
from streamapp.state.windowed import parse_pane_key
from streamapp.state.windows import milliseconds
from streamapp.testing.log import Log
from streamapp.testing.records import Sent, sent
from streamapp.testing.restoring import latest_marker
from streamapp.testing.views import PlainView, WindowedView, merged, view_of
from streamapp.testing.worker import Moment, Worker

if TYPE_CHECKING:
    from streamapp.engine.app import App

__all__ = ["AppTest"]

#: Where the clock of a test begins unless told otherwise.
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
#: The clock moves in steps, so that what happens between two of them happens in its order.
_STEP_MS = 1_000
_STEPS = 1_000


class AppTest:
    """Runs the batch agents of an application without a broker: `async with app.test() as t`.

    Records go in with `send`, which returns when everything that follows from them is committed.
    Inside the block the application's tables can be read in the test itself: `table["key"]`,
    `table.items()`, `windowed.value(key, at=time)`.

    Topics have the partitions that they are declared with, or the application's
    `topic_partitions`, and every partition has its task: records that should meet and were not
    sent to one owner do not meet here either. Faust's own agents and tables are not run.

    Arguments:
        agents: only the topologies of these agents run; without it, all that are declared.
        partitions: of every topic, whatever is declared.
        processing_guarantee: in place of the application's.
        error_policies: follow the agents' error policies, as a worker does (but for the pauses);
            without it, what an agent raises comes out of `send`.
        now: where the clock begins: milliseconds (int), seconds (float), datetime or ISO 8601.
    """

    def __init__(
        self,
        app: App,
        *,
        agents: Iterable[BatchAgent] | None = None,
        partitions: int | None = None,
        processing_guarantee: str | Guarantee | None = None,
        error_policies: bool = False,
        now: int | float | str | datetime = _BEGIN,
    ) -> None:
        self.app = app
        self._now = to_milliseconds(now)
        settings = app.engine_settings
        if processing_guarantee is not None:
            settings = dataclasses.replace(settings, guarantee=Guarantee(processing_guarantee))
        self._settings = settings
        self._partitions = partitions
        self.topologies = self._chosen(agents)
        self._topics = self._declared()
        self._log = Log(partitions or app.conf.topic_partitions)
        self._provision()
        self._world = Surroundings(
            clock=lambda: self._now,
            partitions=self._log.partitions,
            limits={},
            worker="test",
            dead_letter_topic=app.dead_letter_topic,
        )
        self._worker = Worker(
            self.topologies, self._settings, self._world, self._log, error_policies
        )
        self._holding = 0
        self._round_robin = 0
        self._bound: list[tuple[Any, Token[Any]]] = []

    def _chosen(self, agents: Iterable[BatchAgent] | None) -> list[Topology]:
        declared = self.app.batch_agents.values()
        if not declared:
            raise ConfigurationError(
                f"the application {self.app.conf.id} has no batch agents: import the modules that declare them"
            )
        topologies = build_topologies(self.app.conf.id, declared)
        if agents is None:
            return topologies
        wanted = set(agents)
        chosen = [t.name for t in topologies if any(agent in wanted for agent in t.agents)]
        # Nobody waits for the watermarks of a topology that does not run.
        return [
            dataclasses.replace(
                topology,
                feeds={
                    topic: [upstream for upstream in upstreams if upstream.name in chosen]
                    for topic, upstreams in topology.feeds.items()
                },
            )
            for topology in topologies
            if topology.name in chosen
        ]

    def _declared(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for topology in self.topologies:
            topics |= topology.outputs
            topics |= {key_by.name: key_by for key_by in topology.key_bys}
            topics |= {source.name: source for source in topology.sources}
        return topics

    def _provision(self) -> None:
        counts = self._log.partitions
        for name, topic in self._topics.items():
            counts[name] = self._partitions or topic.partitions or self._log.default_partitions
        for topology in self.topologies:
            sources = {source.name: counts[source.name] for source in topology.sources}
            if len(set(sources.values())) > 1:
                raise ConfigurationError(
                    f"the topology {topology.name} reads topics of different partition counts, {sources}: "
                    "records of one key would not meet in one task; declare them with the same partitions=…"
                )
            tasks = next(iter(sources.values()))
            counts[topology.checkpoint_topic] = counts[topology.ledger_topic] = tasks
            if topology.presents:
                counts[topology.intents_topic] = tasks
            for table in topology.tables:
                counts[topology.changelog(table.name)] = tasks

    # ------------------------------------------------------------------ its life

    async def __aenter__(self) -> AppTest:
        self._worker.start()
        outside = _Outside({}, 0)
        self._bound.append((outside, current_outbox.set(outside)))
        for topology in self.topologies:
            for table in topology.tables:
                view = self.table(table)
                self._bound.append((view, table.bind(view)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._worker.stop()
        for bound, token in self._bound:
            # A fixture may leave in another context than it entered: the view is closed there.
            if token.var.get(None) is bound:
                with contextlib.suppress(ValueError):
                    token.var.reset(token)
        self._bound = []

    async def restart(self, *, keep_stores: bool = False) -> None:
        """Stop the worker and start another, which restores from the changelogs and the markers.

        Arguments:
            keep_stores: it finds the stores of the one before, as on the same host; without it, it
                has none and rebuilds them from the changelogs.
        """
        await self._worker.restart(keep_stores=keep_stores)

    def crash(self, moment: Moment = "before-commit") -> None:
        """Let the worker die at its next checkpoint; another starts by itself and goes on.

        Arguments:
            moment: `before-commit`: the agents have finished, the transaction is lost;
                `after-commit`: the transaction is committed, the stores do not know of it.
        """
        self._worker.crash_at = moment

    # ------------------------------------------------------------------ in

    async def send(
        self,
        topic: Topic | str,
        value: Any = None,
        *,
        key: Any = None,
        at: int | float | str | datetime | None = None,
        partition: int | None = None,
        headers: Any = None,
    ) -> None:
        """Send a record, and process until nothing is left to do (in `batch`: at its end).

        Key and value are encoded as the topic says; bytes go as they are, which is how a topic with
        a `decode` of its own is fed.

        Arguments:
            at: the record's timestamp, without one the clock's time; it is the event time of topics
                that have no `event_time` of their own.
            partition: without one the key decides, and without a key they take turns.

        Raises:
            Exception: what an agent raised. Nothing of its batch is visible; `run` tries it again.
            AgentFailed: with `error_policies`, what they escalate.
        """
        declared = self._source(topic)
        record = declared.outgoing(key, value, partition, None, headers)
        time = self._now if at is None else to_milliseconds(at)
        if record.key is None and partition is None:
            self._round_robin += 1
        self._log.append([record._replace(timestamp=time)], self._now, self._round_robin - 1)
        if not self._holding:
            await self.run()

    def _source(self, topic: Topic | str) -> Topic:
        name = topic if isinstance(topic, str) else topic.name
        sources = {source.name: source for t in self.topologies for source in t.sources}
        if name not in sources:
            raise ConfigurationError(
                f"no agent of this test reads the topic {name}: they read {', '.join(sorted(sources))}"
            )
        return topic if isinstance(topic, Topic) else sources[name]

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Put what is sent within into one batch a partition: `async with t.batch(): …`."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if not self._holding:
            await self.run()

    def cut_every(self, records: int | None) -> None:
        """Cut batches after so many records; `None`: as the agents declare with `max_records`."""
        self._worker.cut_every = records

    async def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: partitions become idle, watermarks go on, windows close.

        The clock goes in steps of a second, or a thousandth of the whole if that is longer.
        """
        until = self._now + milliseconds(seconds)
        step = max(_STEP_MS, (until - self._now) // _STEPS)
        while self._now < until:
            self._now = min(self._now + step, until)
            await self.run()

    @property
    def directory(self) -> Path:
        """Where the stores are; it is gone after the test."""
        return self._worker.directory

    @property
    def now(self) -> int:
        """The clock, in milliseconds since the epoch."""
        return self._now

    async def run(self) -> None:
        """Process until nothing is left to do: every record, and every window that has to close.

        `send`, `batch` and `advance` do it by themselves; after an error it tries again.

        Raises:
            Exception: what an agent raised; its batch is rolled back and comes first next time.
        """
        await self._worker.run()

    # ------------------------------------------------------------------ out

    def output(self, topic: Topic | str) -> list[Sent]:
        """Return what the agents have sent to a topic, in the order of commits.

        Keys and values are decoded as the topic says, or bytes when it is named and nobody declared
        it. What the test itself sent is not in it, nor what the engine tells itself through `key_by`.

        Raises:
            DecodeError: a record is not what the topic's type says; others by codec.
        """
        name = topic if isinstance(topic, str) else topic.name
        declared = self._topics.get(name) if isinstance(topic, str) else topic
        marks = isinstance(declared, KeyBy)
        return [
            sent(record, declared)
            for record in self._worker.outputs
            if record.topic == name and not (marks and is_mark(record))
        ]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The records that could not be processed."""
        name = self.app.dead_letter_topic
        letters = (read_dead_letter(r) for r in self._worker.outputs if r.topic == name)
        return [letter for letter in letters if letter is not None]

    @property
    def ledger(self) -> list[LedgerEntry]:
        """The ledger: one entry a checkpoint, in the order of commits."""
        return self._worker.ledger

    @property
    def late(self) -> int:
        """How many additions to windowed tables came after their last window was closed."""
        return sum(entry.late for entry in self.ledger)

    def table(self, table: Table[Any], partition: int | None = None) -> Any:
        """Return a table as the test sees it, of all tasks or of one partition's.

        `table[key]`, `in`, `get` and `items()` of a plain one; `windows()`, `window_items(window)` and
        `value(key, window)` of a windowed one.
        """
        view: PlainView | WindowedView = view_of(table, lambda: self._states(table, partition))
        return view

    def _states(self, table: Table[Any], partition: int | None) -> dict[int, Any]:
        topology = self._topology_of(table)
        if not self._worker.tasks:
            raise TableError(f"the table {table.name!r} was read after its test: read it within")
        tasks = self._worker.tasks[topology.name]
        chosen = tasks if partition is None else [tasks[partition]]
        return {task.partition: task.tables[table.name] for task in chosen}

    def _topology_of(self, table: Table[Any]) -> Topology:
        for topology in self.topologies:
            if table in topology.tables:
                return topology
        raise TableError(f"no agent of this test works with the table {table.name!r}")

    def changelog(self, table: Table[Any], partition: int | None = None) -> dict[Any, Any]:
        """Return what a table's changelog holds when it is compacted: what a restart would find.

        Keys and values are decoded; those of a windowed table are `(pane start, key)`, in
        milliseconds, and accumulators.

        Raises:
            TableError: no partition was named, and several hold the same key.
        """
        topology = self._topology_of(table)
        topic = topology.changelog(table.name)
        chosen = range(self._log.partitions[topic]) if partition is None else [partition]
        parts: dict[int, dict[Any, Any]] = {}
        for number in chosen:
            latest = {record.key or b"": record.value for record in self._log.read(topic, number)}
            parts[number] = {
                _decoded_key(table, raw): table.value_codec.decode(value)
                for raw, value in latest.items()
                if value is not None
            }
        return merged(table.name, parts)

    def marker(self, agent: BatchAgent, partition: int = 0) -> Marker | None:
        """Return the marker of the last checkpoint of an agent's task, or `None` before the first."""
        for topology in self.topologies:
            if agent in topology.agents:
                return latest_marker(self._log, topology.checkpoint_topic, partition)
        raise ConfigurationError(f"the agent {agent.name} does not run in this test")


class _Outside(Outbox):
    """Where a send goes that the test itself makes: to an error, instead of to a broker."""

    def put(self, record: Outgoing) -> None:
        """Refuse."""
        raise StreamappError(
            f"a test has no broker: await t.send(topic, …) gives {record.topic} a record, and agents send as always"
        )


def _decoded_key(table: Table[Any], raw: bytes) -> Any:
    if isinstance(table, WindowedTable):
        start, key = parse_pane_key(raw)
        return start, table.key_codec.decode(key)
    return table.key_codec.decode(raw)
