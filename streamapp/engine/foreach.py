"""`@app.foreach_batch`: a function that is given each batch, for what is outside of Kafka.

No transaction reaches an outside system. What the engine promises instead is that a batch which comes
again is the same one: its boundaries are committed, as an *intent*, before the function is called,
and whoever has the task then presents the records of that range under the same id until a checkpoint
covers it. A sink that remembers the last id in the same transaction as its rows has each batch once.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from streamapp.engine.agent import BatchAgent, Batches, named_in
from streamapp.engine.batch import Batch, Record
from streamapp.engine.error_policy import ErrorPolicy, OnError
from streamapp.engine.key_by import KeyBy
from streamapp.engine.marker import Marker, checked
from streamapp.engine.topic import Topic
from streamapp.errors import AgentStopped, ConfigurationError, StoreError
from streamapp.faults import fault_point
from streamapp.state.table import Table

__all__ = ["INTENT_KEY", "ForeachBatch", "ForeachFunction", "Intent", "decode_intent", "foreach"]

#: The version of intents; another one is refused.
FORMAT = 1

#: The one key of the intents topic: compaction keeps each partition's latest intent.
INTENT_KEY = b"intent"

ForeachFunction = Callable[[Batch], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class ForeachBatch(BatchAgent):
    """A function over whole batches, in a topology of its own; `function` calls it in a loop."""


def foreach(
    name: str,
    write: ForeachFunction,
    topic: Topic,
    within: float,
    max_records: int,
    errors: ErrorPolicy | None,
) -> ForeachBatch:
    """Declare a function over batches.

    Raises:
        ConfigurationError: it is not async, works with tables, or is to skip single records.
    """
    if not inspect.iscoroutinefunction(write):
        raise ConfigurationError(
            f"the function {name} of foreach_batch is async: async def {name}(batch): …; what blocks goes into a "
            "thread, asyncio.to_thread(…)"
        )
    if used := named_in(write, (Table, KeyBy)):
        names = ", ".join(sorted(item.name for item in used))
        raise ConfigurationError(
            f"the function {name} of foreach_batch works with {names}: tables and key_by belong to batch agents. "
            "Let an agent send to a topic what the outside system needs, and foreach_batch read that"
        )
    if errors is not None and OnError.SKIP_RECORD in (*errors.directives.values(), errors.then):
        raise ConfigurationError(
            f"foreach_batch {name} has an error policy with SKIP_RECORD: its batch has one id and is written as a "
            "whole. RETRY, SKIP_BATCH, STOP and ESCALATE are what it can do"
        )

    async def present(batches: Batches) -> None:
        async for batch in batches:
            if len(batch):
                await write(batch)
                fault_point("foreach.called")

    present.__doc__ = write.__doc__
    return ForeachBatch(
        name,
        present,
        topic,
        name,
        within,
        max_records,
        (),
        frozenset(named_in(write, (Topic,))),
        errors,
    )


class Intent(
    msgspec.Struct,
    kw_only=True,
    frozen=True,
    rename={"from_offset": "from", "until_offset": "until"},
):
    """Which batch a task is about to present: one record of the topology's compacted intents topic.

    Attributes:
        sequence: of the checkpoint that will cover it: with that one committed, it is done.
        records: how many records the range has, so that one that is missing is noticed.
        unreadable: the offsets of those that could not be decoded: they are not presented, also not
            by a later version of the program that can read them.
    """

    format: int = FORMAT
    sequence: int
    topic: str
    partition: int
    from_offset: int
    until_offset: int
    records: int
    unreadable: list[int] = []

    @classmethod
    def of(cls, batch: Batch, records: Sequence[Record], sequence: int) -> Intent:
        """Return the intent to present a batch that was made of some records."""
        readable = set(batch.offsets)
        return cls(
            sequence=sequence,
            topic=batch.topic,
            partition=batch.partition,
            from_offset=batch.from_offset,
            until_offset=batch.until_offset,
            records=len(records),
            unreadable=[r.offset for r in records if r.offset not in readable],
        )

    @property
    def batch(self) -> str:
        """The id of the batch."""
        return f"{self.topic}:{self.partition}:{self.from_offset}-{self.until_offset}"

    def encode(self) -> bytes:
        """Return it as JSON."""
        return _encode(self)

    def check_follows(self, marker: Marker, where: str) -> None:
        """Refuse an intent that the last checkpoint contradicts.

        Raises:
            StoreError: checkpoints between the two are missing.
        """
        begins = marker.sources.get(self.topic, self.from_offset)
        due = self.sequence == marker.sequence + 1 and begins == self.from_offset
        if not due and self.sequence > marker.sequence:
            raise StoreError(
                f"{where} was about to present {self.batch} in its checkpoint {self.sequence}, and its last "
                f"checkpoint is {marker.sequence}, at offset {begins}: the checkpoint topic was deleted and made "
                f"anew, or truncated. Restore it, or begin anew: delete the topology's intents topic as well, "
                "and what the outside system remembers of its batches"
            )

    def check_whole(self, records: Sequence[Record], task: str, intents: str) -> None:
        """Refuse to present less than what was presented before.

        Raises:
            AgentStopped: source records are gone.
        """
        if len(records) != self.records:
            raise AgentStopped(
                f"{task} has to present {self.batch} again as it was, and {self.records - len(records)} of its "
                f"{self.records} records are gone: retention or compaction removed them. It is stopped, nothing was "
                f"committed, and the worker goes on without it. See in the outside system whether it has the batch; "
                f"to go on with what is left, under another id, delete the topic {intents} and start the worker again"
            )


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Intent).decode


def decode_intent(raw: bytes, where: str) -> Intent:
    """Return an intent; `where` names it.

    Raises:
        StoreError: it is of another format, or none of ours.
    """
    return checked(_decode, raw, where, FORMAT)
