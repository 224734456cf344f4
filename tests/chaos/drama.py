"""One run: faults by schedule under load, then calm, and everything is compared with the oracle."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamapp.ledger import audit, audit_text
from tests.chaos.arena import SESSION, TASKS, Arena, Holdings, Load, meddled
from tests.chaos.schedule import VETERAN, schedule
from tests.engine.jobs import Event, build
from tests.engine.oracle import (
    check_ledger,
    check_newest_stores,
    check_outputs,
    check_state,
    counted,
    decode,
    sent,
)
from tests.engine.workers import read_table
from tests.polling import eventually

__all__ = ["Report", "run"]

_SETTLED = 40
#: What a worker may hold more of at the end than with the same tasks at the beginning: a task's store
#: gets a few tables of RocksDB before they are compacted, and its clients get to know other brokers.
_MORE_OF_A_TASK = 3
_MORE_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in a run that went well."""

    faults: int
    events: int
    checkpoints: int
    seconds: float
    meddling: str

    def __str__(self) -> str:
        return (
            f"{self.faults} faults in {self.seconds:.0f} s ({self.meddling}): {self.events} events, "
            f"{self.checkpoints} checkpoints, all as the oracle has it"
        )


async def run(
    directory: Path,
    seed: int,
    faults: int,
    *,
    brokers: int = 1,
    guarantee: str = "exactly_once",
    standbys: int = 0,
    tell: Callable[[str], None] = print,
    most_seconds: float | None = None,
) -> Report:
    """Run a schedule, and compare.

    Args:
        most_seconds: begin no more faults so long after the workers have settled; the schedule stays
            the same.

    Raises:
        AssertionError: something is not as it has to be; the message says what.
    """
    began = time.monotonic()
    done = 0
    async with Arena(directory, brokers, guarantee, standbys) as arena:
        topic = arena.kafka.topic("in")
        async with Load(arena.kafka.bootstrap, topic, seed) as load:
            before = await arena.veteran()
            arena.fill()
            await arena.progressed(_SETTLED)
            settled = time.monotonic()
            for fault in schedule(seed, faults, brokers=brokers, session=SESSION):
                await arena.progressed(fault.gap)
                if most_seconds is not None and time.monotonic() - settled > most_seconds:
                    break
                struck = await arena.strike(fault)
                done += struck
                moment = f"{time.monotonic() - began:6.1f} s  {done:4}"
                tell(f"{moment}  {fault}{'' if struck else ' (not there)'}")
            done -= await arena.calm()
            await arena.progressed(_SETTLED)
            await arena.everyone_at_work()
            await arena.leave(VETERAN)
            after = await arena.veteran()
        events = load.events
        tell(f"{time.monotonic() - began:6.1f} s  calm: {len(events)} events")
        await all_processed(arena, events)
        check_holdings(before, after)
        await arena.leave()
        checkpoints = await check(arena, events)
        return Report(
            done, len(events), checkpoints, time.monotonic() - began, meddled(arena.proxies)
        )


async def all_processed(arena: Arena, events: list[Event]) -> None:
    """Wait until the workers that are there have come to the end, by themselves."""
    kafka = arena.kafka

    async def processed() -> bool:
        arena.check_workers()
        if arena.guarantee == "at_most_once":
            return await arena.committed_all()
        return await counted(kafka) >= len(events)

    try:
        await eventually(processed, within=120)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{arena.tails()}") from None


def check_holdings(before: Holdings, now: Holdings) -> None:
    """What the worker that lived through it holds is what it held, with the same tasks."""
    told = f"{before} before, {now} now, each with {TASKS} tasks"
    more = _MORE_OF_A_TASK * TASKS
    assert now.connections <= before.connections + more, f"connections: {told}"
    assert now.files <= before.files + more, f"open files: {told}"
    assert now.resident <= before.resident + _MORE_BYTES, f"memory: {told}"


async def check(arena: Arena, events: list[Event]) -> int:
    """Compare outputs, tables, stores and ledger with the events; return the checkpoints."""
    kafka = arena.kafka
    totals = decode(
        await read_table(kafka.bootstrap, f"{kafka.prefix}app-{kafka.prefix}totals-changelog")
    )
    match arena.guarantee:
        case "exactly_once":
            await check_outputs(kafka, events)
            await check_state(kafka, events)
        case "at_least_once":
            assert {record["n"] for record in await sent(kafka)} == {event.n for event in events}
            assert totals == Counter(event.key for event in events)
        case _:
            numbers = [record["n"] for record in await sent(kafka)]
            assert len(numbers) == len(set(numbers))
            keys = {event.n: event.key for event in events}
            assert totals == Counter(keys[number] for number in numbers)
    await check_newest_stores(kafka, arena.state)
    jobs = build(kafka.prefix, kafka.bootstrap, arena.guarantee, str(arena.state))
    audited = await audit(jobs.app.kafka_options(), jobs.app.topologies())
    assert audited.well and not audited.total("jumps"), audit_text(audited)
    return await check_ledger(kafka, "count") + await check_ledger(kafka, "count_letters")
