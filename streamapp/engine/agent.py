"""Batch agents: what `@app.batch_agent` makes of a function, and one running in a task."""

from __future__ import annotations

import asyncio
import dis
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from streamapp.engine.batch import Batch
from streamapp.engine.error_policy import ErrorPolicy
from streamapp.engine.topic import Topic
from streamapp.errors import AgentError, ConfigurationError
from streamapp.state.table import Table, WindowedTable

__all__ = ["AgentFunction", "AgentRun", "BatchAgent", "Batches", "used_by"]

log = logging.getLogger(__name__)

#: How long an agent that is stopped has until it is cancelled again, in seconds.
_CANCEL_EVERY = 1.0
#: How often it is cancelled before the worker gives up on it.
_CANCELLATIONS = 10

#: An async function over the batches of a topic, or an async generator of values for its sinks.
AgentFunction = Callable[["Batches"], Any]


@dataclass(frozen=True, slots=True, eq=False)
class BatchAgent:
    """A batch agent as the application declares it.

    Attributes:
        within: seconds after its first record at which a batch is processed.
        max_records: records at which it is processed at once.
        uses: the tables, `key_by`s and topics that it works with.
        errors: what follows when it raises; the engine's setting without one.
    """

    name: str
    function: AgentFunction
    topic: Topic
    topology: str
    within: float
    max_records: int
    sinks: Sequence[Topic]
    uses: frozenset[Any]
    errors: ErrorPolicy | None = None

    def __post_init__(self) -> None:
        if not (
            inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)
        ):
            raise ConfigurationError(
                f"the batch agent {self.name} is an async function: async def {self.name}(batches): …"
            )
        if self.sinks and not inspect.isasyncgenfunction(self.function):
            raise ConfigurationError(
                f"the batch agent {self.name} has a sink and yields nothing to it"
            )
        if self.max_records < 1 or self.within < 0:
            raise ConfigurationError(
                f"the batch agent {self.name} wants max_records of at least 1 and within of at least 0 seconds"
            )


def named_in(function: Callable[..., Any], kinds: tuple[type, ...]) -> set[Any]:
    """Return the objects of some kinds that a function names: globals, closures and, through them,
    plain functions of the same module."""
    found: set[Any] = set()
    seen: set[Any] = set()

    def visit(item: Any, module: str) -> None:
        if isinstance(item, kinds):
            found.add(item)
        elif isinstance(item, FunctionType) and item not in seen and item.__module__ == module:
            seen.add(item)
            for name in _names(item.__code__):
                if name in item.__globals__:
                    visit(item.__globals__[name], module)
            for cell in item.__closure__ or ():
                try:
                    visit(cell.cell_contents, module)
                except ValueError:  # an empty cell: the name is assigned later
                    continue

    visit(function, function.__module__)
    return found


def _names(code: CodeType) -> set[str]:
    # Not `co_names`: attributes are among those, and `line.words` is not the table `words`.
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def used_by(agent: BatchAgent) -> set[Any]:
    """Return the tables, `key_by`s and topics of an agent, and of what closes its windows."""
    found: set[Any] = set()
    ahead = set(agent.uses)
    while ahead:
        used = ahead.pop()
        found.add(used)
        if isinstance(used, WindowedTable) and used.closer is not None:
            ahead |= named_in(used.closer, (Table, Topic)) - found
    return found


def tables_of(agent: BatchAgent) -> set[Table[Any]]:
    """Return the tables among them."""
    return {used for used in used_by(agent) if isinstance(used, Table)}


class Batches:
    """What an agent iterates over; asking for the next batch says that the one before is finished."""

    def __init__(self) -> None:
        self._next: asyncio.Future[tuple[Batch, asyncio.Future[None]]] = (
            asyncio.get_running_loop().create_future()
        )
        #: Done when the batch that the agent took last is finished.
        self.taken: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self.taken is not None and not self.taken.done():
            self.taken.set_result(None)
        # Shielded: an agent may give up waiting (`asyncio.timeout`) and ask again.
        batch, self.taken = await asyncio.shield(self._next)
        self._next = asyncio.get_running_loop().create_future()
        return batch

    def hand_over(self, batch: Batch) -> asyncio.Future[None]:
        """Give the agent its next batch; the future is done when the agent asks for another."""
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next.set_result((batch, finished))
        return finished


class AgentRun:
    """One agent at work in one task.

    Arguments:
        context: where the agent's tables and its outbox are found.
        emit: takes what the agent yields.
    """

    def __init__(
        self, agent: BatchAgent, context: Context, emit: Callable[[BatchAgent, Any], None]
    ) -> None:
        self.agent = agent
        self._context = context
        self._emit = emit
        self._batches: Batches | None = None
        self._task: asyncio.Task[None] | None = None

    async def process(self, batch: Batch) -> None:
        """Let the agent process a batch; return when it asks for the next one or returns.

        Raises:
            Exception: whatever the agent raised; the next call starts the agent anew.
        """
        if self._task is not None and self._task.done():
            self._report("between its batches")
            self._task = None
        if self._task is None:
            self._batches = Batches()
            self._task = asyncio.get_running_loop().create_task(
                self._run(self._batches), name=f"agent {self.agent.name}", context=self._context
            )
        assert self._batches is not None
        finished = self._batches.hand_over(batch)
        await asyncio.wait({finished, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done():
            task, self._task = self._task, None
            if task.cancelled():
                # As it is, it would pass for a cancellation of whoever runs this task.
                raise AgentError(
                    f"the batch agent {self.agent.name} ended in a CancelledError in {batch.id}: "
                    "something that it awaited was cancelled"
                )
            task.result()
            if self._batches.taken is not finished:
                raise ConfigurationError(
                    f"the batch agent {self.agent.name} returned without taking {batch.id}: "
                    "its body loops over its batches, async for batch in batches: …"
                )

    async def _run(self, batches: Batches) -> None:
        run = self.agent.function(batches)
        if inspect.isasyncgen(run):
            async for value in run:
                self._emit(self.agent, value)
        else:
            await run

    async def stop(self) -> None:
        """End the agent's coroutine.

        Raises:
            AgentError: it catches every cancellation and goes on.
        """
        if (task := self._task) is None:
            return
        for _ in range(_CANCELLATIONS):
            if task.done():
                break
            task.cancel()
            # Again, when it catches the cancellation and waits on.
            await asyncio.wait({task}, timeout=_CANCEL_EVERY)
        done = task.done()
        if done:
            self._report("while it was stopped")
        self._task = None
        if not done:
            raise AgentError(
                f"the batch agent {self.agent.name} was cancelled {_CANCELLATIONS} times and goes on: it may catch "
                "CancelledError to clean up, and has to end then"
            )

    def _report(self, when: str) -> None:
        task = self._task
        if task is not None and not task.cancelled() and (error := task.exception()) is not None:
            log.warning("the batch agent %s: %r %s", self.agent.name, error, when)
