"""Nothing is lost and nothing counts twice: each event is in one final window, or it was late.

Whatever happens in between: events in any order, quiet partitions, batches of any size, restarts
with and without stores, and crashes on both sides of a commit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp import Batches, Count
from tests.engine.tasks import an_app
from tests.state.quick import QUICK

app = an_app("conservation", engine={"idle_timeout": 5.0})
events = app.topic("events", partitions=2, grace=2)
by_key = app.key_by("events", aggregate=Count(), pane=4, key_type=str, partitions=3)
final = app.topic("final")
late_events = app.topic("late")
windows = (
    app.BatchTable("windows", aggregate=Count(), key_type=str)
    .tumbling(4, expires=8)
    .emit_final(final)
)
direct = (
    app.BatchTable("direct", aggregate=Count(), key_type=str)
    .hopping(4, 2)
    .emit_final(final)
    .late_to(late_events)
)


@app.batch_agent(events)
async def send_on(batches: Batches) -> None:
    async for batch in batches:
        for key in batch:
            direct[f"of {batch.partition}"] += 1
            by_key.add(key)


@app.batch_agent(by_key)
async def count(batches: Batches) -> None:
    async for batch in batches:
        for key, n in batch.items():
            windows[key] += n


EVENT = st.tuples(
    st.just("event"), st.sampled_from("abc"), st.integers(-8_000, 3_000), st.integers(0, 1)
)
ACTIONS = st.lists(
    st.one_of(
        EVENT,
        EVENT,
        EVENT,
        st.tuples(st.just("batch"), st.lists(EVENT, max_size=10)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
        st.tuples(st.just("restart"), st.booleans()),
        st.tuples(st.just("crash"), st.sampled_from(["before-commit", "after-commit"])),
        st.tuples(st.just("cut"), st.sampled_from([1, 2, 5, None])),
    ),
    max_size=30,
)


@settings(QUICK, max_examples=40)
@given(ACTIONS)
def test_each_event_is_in_a_final_window_or_was_late(actions: list[tuple[Any, ...]]) -> None:
    asyncio.run(_check(actions))


async def _check(actions: list[tuple[Any, ...]]) -> None:
    sent: Counter[str] = Counter()
    async with app.test() as t:

        async def send(event: tuple[Any, ...]) -> None:
            _, key, offset, partition = event
            sent[key] += 1
            await t.send(events, key, at=t.now + offset, partition=partition)

        for action in actions:
            match action:
                case ("event", *_):
                    await send(action)
                case ("batch", found):
                    async with t.batch():
                        for event in found:
                            await send(event)
                case ("wait", seconds):
                    await t.advance(seconds)
                case ("restart", keep):
                    await t.restart(keep_stores=keep)
                case ("crash", moment):
                    t.crash(moment)
                case ("cut", records):
                    t.cut_every(records)
        await t.advance(40)
        results = [record.value for record in t.output(final)]
        assert all(result["final"] for result in results)
        places = Counter((r["key"], r["start"], r["end"]) for r in results)
        assert max(places.values(), default=1) == 1, "a window of a key is final once"
        counted: Counter[str] = Counter()
        for result in results:
            counted[result["key"]] += result["value"]
        # An event is in two windows of `direct` or in the second alone when the first is closed.
        in_direct = counted.pop("of 0", 0) + counted.pop("of 1", 0)
        late_direct = len(t.output(late_events))
        total = sum(sent.values())
        assert total - late_direct <= in_direct <= 2 * (total - late_direct)
        late_partials = t.late - late_direct
        assert all(counted[key] <= n for key, n in sent.items())
        # Late partials are combined: each stands for one event at least.
        missing = total - sum(counted.values())
        assert missing >= late_partials
        assert (missing == 0) == (late_partials == 0)
        assert sum(e.late for e in t.ledger) == t.late
        for table in (windows, direct):
            assert set(t.changelog(table, 0)) == _stored(t, table)


def _stored(t: Any, table: Any) -> set[Any]:
    state = t.table(table, partition=0)._states()[0]
    return {(pane, key) for pane in state._stored_panes() for key in state._pane_items(pane)}
