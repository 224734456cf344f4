"""The dead letters that an application keeps: read, and published again, each once.

What was published again is remembered in a compacted topic, `{app}-dead-letters-republished`, in
the transaction that publishes it: repeating the command, after a crash or by mistake, repeats no
record. A group's offsets could not do this, for letters are chosen one by one. Starting the producer
fences a command that runs elsewhere, so two of them do not publish a letter twice either.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition

from streamapp.engine.app import App
from streamapp.engine.dead_letters import DeadLetter, read_dead_letter
from streamapp.engine.outbox import Outgoing
from streamapp.engine.producer import TaskProducer
from streamapp.engine.provision import Wanted, configs_of, provision_one
from streamapp.ledger.reading import LedgerReader

__all__ = ["DeadLetters", "KeptLetter", "Outcome", "Terms"]

#: What goes into one transaction, at the most: letters, and bytes of them.
_LETTERS: Final = 500
_BYTES: Final = 8 << 20


class KeptLetter(NamedTuple):
    """A dead letter as its topic has it.

    Attributes:
        id: `partition:offset` in the dead-letter topic.
        at: when it was put there, in milliseconds.
        republished: whether it was published again.
    """

    id: str
    at: int
    letter: DeadLetter
    republished: bool = False

    @property
    def mark(self) -> bytes:
        """The key under which is remembered that it was published again.

        In a topic that was deleted and made anew, offsets come again; with their times they do not.
        """
        return f"{self.id}:{self.at}".encode()

    def record(self, timestamp: int | None = None) -> Outgoing:
        """Return the record that it was, for the partition where it was.

        Its key does not decide: whoever published it first may have another way from keys to
        partitions than this client, and the state of its key is where it was.

        Arguments:
            timestamp: in place of its own, in milliseconds.
        """
        letter = self.letter
        at = letter.timestamp if timestamp is None else timestamp
        return Outgoing(
            letter.topic, letter.key, letter.value, letter.partition, at, letter.headers
        )


@dataclass(slots=True)
class Outcome:
    """What became of the letters that were chosen.

    Attributes:
        published: the ids of those that were published again.
        refused: why the others were not, by id.
    """

    published: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Terms:
    """Which letters are published again that are not otherwise, and how.

    Attributes:
        again: also those that were published again before.
        cut: also those whose value was cut.
        now: with the time of now, in place of the record's own: event time where a topic has no
            other. Retention would delete a record that is older than its topic keeps them.
    """

    again: bool = False
    cut: bool = False
    now: bool = False


class _Target(NamedTuple):
    """A topic to publish to: how many partitions it has, and for how long it keeps records (ms)."""

    partitions: int
    retention: float


class DeadLetters:
    """The dead letters of an application.

    Arguments:
        reader: connected to its cluster.
        clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        app: App,
        reader: LedgerReader,
        clock: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self._app = app
        self._reader = reader
        self._clock = clock
        self._marks = f"{app.dead_letter_topic}-republished"
        self._targets: dict[str, _Target] = {}

    async def kept(self) -> AsyncIterator[KeptLetter]:
        """Yield the letters up to now, those of a partition in order.

        What others have put into the topic is left out.
        """
        known: set[bytes] = set()
        async for _, marks in self._records(self._marks):
            known.update(record.key for record in marks)
        async for tp, records in self._records(self._app.dead_letter_topic):
            for record in records:
                letter = read_dead_letter(record)
                if letter is not None:
                    kept = KeptLetter(f"{tp.partition}:{record.offset}", record.timestamp, letter)
                    yield kept._replace(republished=kept.mark in known)

    async def _records(self, topic: str) -> AsyncIterator[tuple[TopicPartition, Sequence[Any]]]:
        reader = self._reader
        partitions = await reader.partitions(topic)
        begins, ends = await reader.begins(partitions), await reader.stable_ends(partitions)
        async for found in reader.records({tp: (begins[tp], ends[tp]) for tp in partitions}):
            yield found

    async def republish(
        self,
        chosen: Callable[[KeptLetter], bool],
        terms: Terms = Terms(),
        *,
        dry_run: bool = False,
    ) -> Outcome:
        """Publish letters again, as the records that they were.

        Arguments:
            dry_run: only say what would be done.

        Raises:
            TaskClosed: another command has taken over, or a transaction failed; what was committed
                before is remembered.
        """
        outcome = Outcome()
        going = self._going(chosen, terms, outcome)
        if dry_run:
            outcome.published = [kept.id async for kept in going]
            return outcome
        options, settings = self._app.kafka_options(), self._app.engine_settings
        marks = Wanted(self._marks, 1, {"cleanup.policy": "compact"})
        await provision_one(self._reader.admin, marks, settings, options["bootstrap_servers"])
        transactional_id = f"{self._app.dead_letter_topic}-republish"
        producer = TaskProducer(options, transactional_id, "", settings, {})
        # Before anything is read: whoever republishes elsewhere has committed, or never will.
        await producer.open()
        try:
            async for letters in _together(going):
                await producer.commit(self._published(letters, terms), {})
                outcome.published += [kept.id for kept in letters]
        finally:
            await producer.close()
        return outcome

    async def _going(
        self, chosen: Callable[[KeptLetter], bool], terms: Terms, outcome: Outcome
    ) -> AsyncIterator[KeptLetter]:
        async for kept in self.kept():
            if chosen(kept):
                refused = await self._refused(kept, terms)
                if refused is None:
                    yield kept
                else:
                    outcome.refused[kept.id] = refused

    async def _refused(self, kept: KeptLetter, terms: Terms) -> str | None:
        """Return why a letter is not published again."""
        letter = kept.letter
        target = await self._target(letter.topic)
        if kept.republished and not terms.again:
            return "it was published again already (--again does it once more)"
        if letter.cut_from is not None and not terms.cut:
            return "its value was cut (--cut publishes what is left of it)"
        if letter.partition >= target.partitions:
            return f"there is no {letter.topic}[{letter.partition}] any more"
        if self._clock() - letter.timestamp > target.retention and not terms.now:
            return f"it is older than what {letter.topic} keeps (--now gives it the time of now)"
        return None

    async def _target(self, topic: str) -> _Target:
        if topic not in self._targets:
            partitions = await self._reader.partitions(topic)
            configs = await configs_of(self._reader.admin, [topic] if partitions else [])
            config = configs.get(topic, {})
            kept = int(config.get("retention.ms", -1))
            forever = kept < 0 or "delete" not in config.get("cleanup.policy", "delete")
            self._targets[topic] = _Target(len(partitions), math.inf if forever else kept)
        return self._targets[topic]

    def _published(self, letters: Iterable[KeptLetter], terms: Terms) -> Iterator[Outgoing]:
        timestamp = self._clock() if terms.now else None
        for kept in letters:
            yield kept.record(timestamp)
            yield Outgoing(self._marks, kept.mark, b"", 0)


async def _together(letters: AsyncIterator[KeptLetter]) -> AsyncIterator[list[KeptLetter]]:
    """Yield letters as they go into one transaction."""
    together: list[KeptLetter] = []
    size = 0
    async for kept in letters:
        together.append(kept)
        size += kept.record().size
        if len(together) >= _LETTERS or size >= _BYTES:
            yield together
            together, size = [], 0
    if together:
        yield together
