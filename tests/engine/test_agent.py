"""What an agent may do with its batches, and what the engine makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import Any

import pytest

from streamapp import Batches
from streamapp.engine.agent import AgentRun, BatchAgent, tables_of
from streamapp.engine.batch import Batch
from streamapp.errors import AgentError, ConfigurationError
from streamapp.state.cursor import Cursor
from tests.engine.tasks import an_app, json_records
from tests.polling import eventually

app = an_app()
source = app.topic("in")
sink = app.topic("out")
counts = app.BatchTable("counts", default=int)
words = app.key_by("words")


def a_batch(*values: Any) -> Batch:
    records = json_records(values)
    return Batch(source, 0, 0, len(records), records, Cursor(), lambda record, error: None)


class Run:
    """An agent at work, with what it emitted."""

    def __init__(self, function: Any, **options: Any) -> None:
        self.emitted: list[Any] = []
        agent = BatchAgent(
            function.__name__, function, source, "t", 1.0, 10, options.get("sinks", ()), frozenset()
        )
        self._run = AgentRun(agent, copy_context(), lambda _, value: self.emitted.append(value))

    async def process(self, *values: Any) -> None:
        async with asyncio.timeout(5):
            await self._run.process(a_batch(*values))

    async def stop(self) -> None:
        async with asyncio.timeout(5):
            await self._run.stop()


async def test_a_batch_is_finished_when_the_agent_asks_for_the_next_one() -> None:
    steps = []

    async def agent(batches: Batches) -> None:
        async for batch in batches:
            steps.append(f"begins {batch.values}")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append(f"ends {batch.values}")

    run = Run(agent)
    await run.process(1)
    assert steps == ["begins [1]", "ends [1]"]
    await run.process(2)
    assert steps[2:] == ["begins [2]", "ends [2]"]
    await run.stop()


async def test_its_local_variables_live_from_batch_to_batch() -> None:
    totals = []

    async def agent(batches: Batches) -> None:
        total = 0
        async for batch in batches:
            total += sum(batch)
            totals.append(total)

    run = Run(agent)
    await run.process(1, 2)
    await run.process(3)
    assert totals == [3, 6]
    await run.stop()


@pytest.mark.parametrize("how", ["break", "return"])
async def test_an_agent_that_ends_after_a_batch_has_finished_it_and_is_started_anew(
    how: str,
) -> None:
    seen = []

    async def agent(batches: Batches) -> None:
        async for batch in batches:
            seen.append(batch.values)
            if how == "return":
                return
            break

    run = Run(agent)
    await run.process(1)
    await run.process(2)
    assert seen == [[1], [2]]


async def test_what_an_agent_raises_is_raised_and_it_is_started_anew() -> None:
    starts = []
    seen = []

    async def agent(batches: Batches) -> None:
        starts.append(1)
        async for batch in batches:
            if batch.values == [2]:
                raise LookupError("two")
            seen.append(batch.values)

    run = Run(agent)
    await run.process(1)
    with pytest.raises(LookupError, match="two"):
        await run.process(2)
    await run.process(3)
    assert seen == [[1], [3]]
    assert len(starts) == 2
    await run.stop()


async def test_what_an_async_generator_yields_is_emitted_before_its_batch_is_finished() -> None:
    async def agent(batches: Batches) -> AsyncIterator[int]:
        async for batch in batches:
            for value in batch:
                yield value * 10
                await asyncio.sleep(0)

    run = Run(agent, sinks=(sink,))
    await run.process(1, 2)
    assert run.emitted == [10, 20]
    await run.process(3)
    assert run.emitted == [10, 20, 30]
    await run.stop()


async def test_an_agent_that_never_takes_its_batch_is_told_to_loop_over_them() -> None:
    async def agent(batches: Batches) -> None:
        return

    with pytest.raises(
        ConfigurationError, match=r"agent returned without taking in:0:0-1.*async for"
    ):
        await Run(agent).process(1)


async def test_an_agent_that_ends_while_another_batch_waits_has_not_taken_that_one() -> None:
    ends: list[asyncio.Task[Any] | None] = []

    async def agent(batches: Batches) -> None:
        async for _ in batches:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(batches)
            ends.append(asyncio.current_task())
            return

    run = Run(agent)
    await run.process(1)
    await eventually(lambda: [task for task in ends if task and task.done()])
    await run.process(2)


async def test_an_agent_may_give_up_waiting_for_a_batch_and_ask_again() -> None:
    seen, starts, given_up = [], [], []

    async def agent(batches: Batches) -> None:
        starts.append(1)
        while True:
            try:
                async with asyncio.timeout(0.01):
                    seen.append((await anext(batches)).values)
            except TimeoutError:
                given_up.append(1)

    run = Run(agent)
    await run.process(1)
    await eventually(lambda: len(given_up) >= 2)
    await run.process(2)
    assert seen == [[1], [2]]
    assert len(starts) == 1
    await run.stop()


async def test_a_cancelled_error_of_the_agent_is_an_error_and_no_cancellation() -> None:
    async def agent(batches: Batches) -> None:
        async for _ in batches:
            broken = asyncio.get_running_loop().create_future()
            broken.cancel()
            await broken

    with pytest.raises(AgentError, match="in:0:0-1"):
        await Run(agent).process(1)


async def test_an_agent_that_is_stopped_cleans_up() -> None:
    steps = []

    async def agent(batches: Batches) -> None:
        try:
            async for _ in batches:
                pass
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    run = Run(agent)
    await run.process(1)
    await run.stop()
    assert steps == ["cleaned up"]


async def test_an_agent_that_catches_its_cancellation_is_stopped_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamapp.engine.agent._CANCEL_EVERY", 0.01)

    async def agent(batches: Batches) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async for _ in batches:
                pass
        async for _ in batches:
            pass

    run = Run(agent)
    await run.process(1)
    await run.stop()


async def test_stopping_an_agent_that_has_not_begun_does_nothing() -> None:
    async def agent(batches: Batches) -> None:
        raise AssertionError

    await Run(agent).stop()


# ---------------------------------------------------------------------- what it works with


def count(key: str) -> None:
    counts[key] += 1


def used_by(function: Any, **options: Any) -> set[Any]:
    declared = app.batch_agent(source, name=f"agent-{len(app.batch_agents)}", **options)(function)
    return set(declared.uses)


def test_a_table_that_the_body_names_is_found() -> None:
    async def agent(batches: Batches) -> None:
        async for batch in batches:
            for key in batch:
                counts[key] += 1

    assert used_by(agent) == {counts}


def test_a_table_in_a_function_of_the_same_module_is_found() -> None:
    async def agent(batches: Batches) -> None:
        async for batch in batches:
            for key in batch:
                count(key)

    assert used_by(agent) == {counts}


def test_a_table_in_an_inner_function_or_a_comprehension_is_found() -> None:
    async def agent(batches: Batches) -> None:
        async for batch in batches:

            def inner(keys: Any) -> Any:
                return [words.add(key) for key in keys]

            inner(batch)

    assert used_by(agent) == {words}


def test_a_table_of_an_enclosing_function_is_found() -> None:
    enclosed = app.BatchTable("enclosed", default=int)

    async def agent(batches: Batches) -> None:
        async for batch in batches:
            enclosed["n"] += len(batch)

    assert used_by(agent) == {enclosed}


def test_an_attribute_of_the_same_name_is_no_table() -> None:
    async def agent(batches: Batches) -> None:
        async for batch in batches:
            for line in batch:
                line.words.counts()

    assert used_by(agent) == set()


def test_uses_adds_what_the_body_does_not_name() -> None:
    async def agent(batches: Batches) -> None:
        async for _ in batches:
            pass

    assert used_by(agent, uses=[counts, words]) == {counts, words}
    assert tables_of(list(app.batch_agents.values())[-1]) == {counts}


# ---------------------------------------------------------------------- declarations that cannot work


async def fine(batches: Batches) -> None:
    async for _ in batches:
        pass


def not_async(batches: Batches) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (not_async, {}, "is an async function"),
        (fine, {"sink": sink}, "yields nothing"),
        (fine, {"max_records": 0}, "at least 1"),
        (fine, {"within": -1.0}, "at least 0"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(
    function: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        app.batch_agent(source, name="refused", **options)(function)


def test_two_agents_of_one_name_are_refused() -> None:
    app.batch_agent(source, name="twin")(fine)
    with pytest.raises(ConfigurationError, match="two batch agents named twin"):
        app.batch_agent(source, name="twin")(fine)
