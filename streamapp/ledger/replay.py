"""Running an agent over the records of a batch again, without a word to the broker.

What runs is the engine's own `Task`, with the one agent, on a scratch store in a temporary directory:
what it would publish and store is taken from its checkpoint, and dropped. The clock stands where it
stood, and the watermark where the ledger says it was. What the agent's own code does to the outside
cannot be held back.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiokafka import TopicPartition

from streamapp.engine.agent import BatchAgent
from streamapp.engine.app import App
from streamapp.engine.checkpoint import Checkpoint, Slice, Surroundings
from streamapp.engine.foreach import ForeachBatch
from streamapp.engine.key_by import is_mark
from streamapp.engine.marker import LedgerEntry, Marker
from streamapp.engine.provision import inspect
from streamapp.engine.task import Task
from streamapp.engine.topic import Topic
from streamapp.engine.topology import Topology
from streamapp.ledger.errors import AgentRaised, LedgerError
from streamapp.ledger.finding import BatchId, Before, find
from streamapp.ledger.past_state import PastState, WatchedStore, rebuild
from streamapp.ledger.reading import LedgerReader
from streamapp.state.codecs import Codec
from streamapp.state.store import StoreMemory, TableWrites, prefix_of
from streamapp.state.table import WindowedTable
from streamapp.state.windowed import parse_pane_key

__all__ = ["Emitted", "Replay", "State", "Written", "replay"]

State = Literal["before", "empty"]

_STORE_MEMORY = 16 << 20


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """A record that the agent would send; decoded as its topic says, bytes of a topic that nobody declared."""

    topic: str
    key: Any
    value: Any
    partition: int | None = None


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A key that the agent would write: `None` is a key that is not there.

    Attributes:
        pane: where its pane begins (milliseconds), in a windowed table.
        unsure: what it held before is not known.
    """

    table: str
    key: Any
    old: Any
    new: Any
    pane: int | None = None
    unsure: bool = False


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent makes of a batch.

    Attributes:
        entry: what the ledger says of the batch, `None` when it has nothing of it.
        restored: changelog records of the state that it ran on.
        unsure: keys that it read, and nobody knows what they held then, as `table[key]`.
        notes: in what the replay may differ from what happened.
    """

    id: str
    topology: str
    agent: str
    state: State
    records: int
    late: int
    dead_letters: int
    watermark: int | None
    restored: int
    emitted: tuple[Emitted, ...]
    written: tuple[Written, ...]
    unsure: tuple[str, ...]
    notes: tuple[str, ...]
    entry: LedgerEntry | None = None


async def replay(app: App, batch: BatchId, agent: BatchAgent, state: State = "before") -> Replay:
    """Run an agent over exactly the records of a batch again; nothing is written to the broker.

    Arguments:
        state: the tables as the batch found them, or `empty`.

    Raises:
        LedgerError: the agent is a `foreach_batch`, or does not read that topic; the ledger does not know
            the batch (and its state is asked for), or its records are gone.
        AgentRaised: the agent raised; the cause is what it raised.
    """
    if isinstance(agent, ForeachBatch):
        raise LedgerError(
            f"{agent.name} is a foreach_batch: what it does, it does outside, and would do again. Look there for what it "
            "has made of the batch; streamapp batches has the batch itself"
        )
    whole = next(t for t in app.topologies() if agent in t.agents)
    if agent.topic.name != batch.topic:
        raise LedgerError(
            f"the batch agent {agent.name} reads {agent.topic.name}, and {batch} is of {batch.topic}: --agent "
            "names one that reads it"
        )
    async with LedgerReader(app.kafka_options()) as reader:
        before = await find(reader, whole, batch)
        if before is None and state == "before":
            raise LedgerError(
                f"the ledger {whole.ledger_topic} has no batch {batch}, or has it no more, so nobody knows what its "
                "tables held: `streamapp batches` lists the latest; --state empty runs the agent on empty tables"
            )
        records = await _records(reader, batch)
        alone = dataclasses.replace(whole, agents=(agent,))
        marker = await _marker(reader, alone, batch, before, state)
        world = await _world(reader, app, alone, before)
        with tempfile.TemporaryDirectory(prefix="streamapp-replay-") as directory:
            store = WatchedStore(Path(directory), "replay", StoreMemory(_STORE_MEMORY))
            task: Task | None = None
            try:
                past = PastState(0, frozenset())
                if before is not None and state == "before":
                    positions = before.entry.changelogs
                    past = await rebuild(
                        reader, alone, batch.partition, positions, before.changes, store
                    )
                task = Task(alone, batch.partition, store, app.engine_settings, world)
                task.restored(marker, {})
                store.watch()
                checkpoint = await _process(task, batch, records)
                return _outcome(app, whole, alone, batch, state, before, past, checkpoint, store)
            finally:
                if task is not None:
                    await task.close()
                store.close()


async def _records(reader: LedgerReader, batch: BatchId) -> list[Any]:
    tp = TopicPartition(batch.topic, batch.partition)
    if tp not in await reader.partitions(batch.topic):
        raise LedgerError(f"there is no {batch.topic}[{batch.partition}], which {batch} is of")
    begin, end = (await reader.begins([tp]))[tp], (await reader.ends([tp]))[tp]
    if begin > batch.begin:
        raise LedgerError(
            f"{batch.topic}[{batch.partition}] begins at {begin}: the records of {batch} are gone, or some of them, "
            "by retention or because a repartition topic is trimmed behind its readers"
        )
    if end < batch.end:
        raise LedgerError(
            f"{batch.topic}[{batch.partition}] ends at {end}: it is not the topic any more that {batch} was of"
        )
    found: list[Any] = []
    async for _, records in reader.records({tp: (batch.begin, batch.end)}):
        found += records
    return found


async def _marker(
    reader: LedgerReader, topology: Topology, batch: BatchId, before: Before | None, state: State
) -> Marker:
    """Return the marker as the batch found it, as far as the ledger knows.

    The marks of single sources are not in the ledger. Each is put to where the watermark came with
    the batch, so that it comes there again.
    """
    marker = Marker(sources={batch.topic: batch.begin})
    if before is None or state == "empty":
        return marker
    checkpoints = await reader.partitions(topology.checkpoint_topic)
    latest = (await reader.markers(checkpoints)).get(batch.partition, Marker())
    came_to, watermark = before.entry.watermark, before.watermark
    marker.sequence = before.entry.sequence - 1
    marker.watermark = watermark
    marker.windows = latest.windows
    if came_to is not None:
        marker.marks = dict.fromkeys({batch.topic, *latest.marks}, came_to)
    if watermark is not None:
        marker.closed = {
            table.name: watermark for table in topology.tables if isinstance(table, WindowedTable)
        }
    return marker


async def _world(
    reader: LedgerReader, app: App, topology: Topology, before: Before | None
) -> Surroundings:
    upstreams = [upstream for found in topology.feeds.values() for upstream in found]
    names = {
        app.dead_letter_topic,
        *topology.outputs,
        *(key_by.name for key_by in topology.key_bys),
        *(topology.changelog(table.name) for table in topology.tables),
        *(source.name for each in (topology, *upstreams) for source in each.sources),
    }
    found = await inspect(reader.admin, names)
    partitions = dict.fromkeys(names, app.conf.topic_partitions) | found.partitions
    at = round(time.time() * 1000) if before is None else before.entry.at
    return Surroundings(
        clock=lambda: at,
        partitions=partitions,
        limits=found.limits,
        worker="replay",
        dead_letter_topic=app.dead_letter_topic,
    )


async def _process(task: Task, batch: BatchId, records: Sequence[Any]) -> Checkpoint:
    try:
        return await task.process([Slice(batch.topic, batch.begin, batch.end, records)])
    except Exception as error:
        raise AgentRaised(
            f"the agent raised in {batch}, as it would in a worker: {type(error).__name__}: {error}"
        ) from error


# ---------------------------------------------------------------------- what came of it


def _outcome(
    app: App,
    whole: Topology,
    alone: Topology,
    batch: BatchId,
    state: State,
    before: Before | None,
    past: PastState,
    checkpoint: Checkpoint,
    store: WatchedStore,
) -> Replay:
    read = sorted(key for key in past.unsure if store.was_read(key))
    entry = None if before is None else before.entry
    ran = checkpoint.entry
    [agent] = alone.agents
    return Replay(
        id=str(batch),
        topology=whole.name,
        agent=agent.name,
        state=state,
        records=ran.batches[0].records,
        late=ran.late,
        dead_letters=ran.dead_letters,
        watermark=ran.watermark,
        restored=past.records,
        emitted=tuple(_emitted(alone, checkpoint)),
        written=tuple(
            found for writes in checkpoint.writes for found in _written(alone, writes, store, past)
        ),
        unsure=tuple(_named(alone, key) for key in read),
        notes=tuple(_notes(whole, agent, batch, ran.batches[0].records, entry)),
        entry=entry,
    )


def _emitted(topology: Topology, checkpoint: Checkpoint) -> list[Emitted]:
    declared: Mapping[str, Topic] = {
        **topology.outputs,
        **{key_by.name: key_by for key_by in topology.key_bys},
    }
    found = []
    for record in checkpoint.outputs:
        topic = declared.get(record.topic)
        if is_mark(record):
            continue  # the watermark on its way downstream
        found.append(
            Emitted(
                topic=record.topic,
                key=_decoded(None if topic is None else topic.key_codec, record.key),
                value=_decoded(None if topic is None else topic.value_codec, record.value),
                partition=record.partition,
            )
        )
    return found


def _written(
    topology: Topology, writes: TableWrites, store: WatchedStore, past: PastState
) -> list[Written]:
    prefix = prefix_of(writes.table)
    table = next(table for table in topology.tables if table.name == writes.table)
    new: list[tuple[bytes, bytes | None]] = [*writes.puts, *((key, None) for key in writes.deletes)]
    new.sort()
    found = []
    for stored, value in new:
        pane, key = parse_pane_key(stored) if isinstance(table, WindowedTable) else (None, stored)
        found.append(
            Written(
                table=table.name,
                key=_decoded(table.key_codec, key),
                old=_decoded(table.value_codec, store.get(prefix + stored)),
                new=_decoded(table.value_codec, value),
                pane=pane,
                unsure=prefix + stored in past.unsure,
            )
        )
    return found


def _named(topology: Topology, full_key: bytes) -> str:
    name, _, stored = full_key.partition(b"\0")
    table = next(table for table in topology.tables if table.name.encode() == name)
    key = parse_pane_key(stored)[1] if isinstance(table, WindowedTable) else stored
    return f"{table.name}[{_decoded(table.key_codec, key)!r}]"


def _decoded(codec: Codec | None, raw: bytes | None) -> Any:
    """Return what bytes mean, or the bytes themselves where nobody knows."""
    if raw is None or codec is None:
        return raw
    try:
        return codec.decode(raw)
    except Exception:
        return raw


def _notes(
    topology: Topology, agent: BatchAgent, batch: BatchId, records: int, entry: LedgerEntry | None
) -> list[str]:
    notes = []
    if entry is None:
        return ["the ledger has nothing of this batch: only its records are those of then"]
    if entry.kind == "offsets":
        notes.append("it was committed, and never processed (at most once)")
    then = next(
        part.records
        for part in entry.batches
        if (part.topic, part.from_offset, part.until_offset)
        == (batch.topic, batch.begin, batch.end)
    )
    if records < then:
        notes.append(f"it had {then} records: compaction of the source took some of them since")
    elif records > then:
        notes.append(f"it took {then} records then, and lost the others (at most once)")
    if entry.dead_letters:
        notes.append(f"then, {entry.dead_letters} records went to the dead letters")
    if len(entry.batches) > 1:
        notes.append(f"its checkpoint has {len(entry.batches)} batches: this is one of them")
    others = [other.name for other in topology.agents if other.topic.name == batch.topic]
    others.remove(agent.name)
    if others:
        notes.append(f"{', '.join(others)} took these records in the same checkpoint")
    return notes
