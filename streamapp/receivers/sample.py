"""Samples that never end: tweets that nobody wrote, the log of no server, as if they came just now.

What is written is told by its number: of a sample's rounds, each of which has a seed of its own, and
of the item in the round. So the position is two numbers, and whoever goes on from it writes what
would have been written; only the times are new.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, ClassVar, Final

import msgspec

from streamapp import sample_logs, sample_tweets
from streamapp.logs import decode_log_line
from streamapp.receivers.clock import Clock
from streamapp.receivers.publisher import PositionedPublisher
from streamapp.receivers.receiver import Receiver
from streamapp.tweets import decode_tweet

__all__ = ["Item", "Kind", "SamplePosition", "SampleReceiver", "SampleSummary", "items"]

ROUND: Final = 10_000
"""Items of one seed: few enough to be written again when a receiver goes on in the middle."""

SLICE: Final = 0.2
"""Seconds between two looks at what is due."""

MOST: Final = 5_000
"""Items of one transaction."""


class Kind(StrEnum):
    """What there are samples of."""

    #: As the X API's filtered stream sends them, keyed by their ids.
    TWEETS = "tweets"
    #: Lines of an Apache error log.
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Item:
    """One record of a sample; `time`, in milliseconds since the epoch, is when it is due."""

    value: bytes
    time: int
    key: bytes | None = None


class SamplePosition(msgspec.Struct, frozen=True):
    """The next item: of which round, and its number there; `time` is that of the one before it."""

    round: int = 0
    index: int = 0
    time: int = 0


@dataclass(slots=True)
class SampleSummary:
    """What a receiver has done, from its start to its end; `position` is the committed one."""

    kind: Kind
    topic: str
    name: str
    records: int = 0
    transactions: int = 0
    position: SamplePosition | None = None


def items(kind: Kind, seed: int, start: datetime, rate: float) -> Iterator[Item]:
    """Write one round of a sample: `ROUND` items, none of which is due before `start`."""
    due = round(start.timestamp() * 1000)
    match kind:
        case Kind.TWEETS:
            for found in sample_tweets.generate(ROUND, seed, start, rate):
                value = msgspec.json.encode(found)
                tweet = decode_tweet(value)
                yield Item(value, tweet.time, tweet.id.encode())
        case Kind.LOG:
            for line in sample_logs.generate(ROUND, seed, start, rate):
                # A line may be some seconds older than the one before it, and comes after it.
                due = max(due, decode_log_line(line).time)
                yield Item(line, due)


class SampleReceiver(Receiver[SamplePosition, SampleSummary]):
    """Publishes a sample item by item, each when it is due, without an end.

    An item's time is the time of publishing. Started again under the same name, it goes on with the
    next item, which is due at once: no item is left out and none is published twice.

    Args:
        kind: what of.
        topic: where it goes.
        rate: items a second, more of them while something flares up.
        name: by default `sample:` and the kind.
        on_progress: called after every transaction.
        options: those of every receiver: `bootstrap`, `partitions`, `patience`, `clock`.

    Raises:
        ValueError: `rate` is not positive.
    """

    reliable: ClassVar[bool] = True

    def __init__(
        self,
        kind: Kind,
        topic: str,
        *,
        rate: float = 50.0,
        name: str | None = None,
        on_progress: Callable[[SampleSummary], None] | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate is items a second and must be positive, not {rate}")
        name = name or f"sample:{kind}"
        super().__init__(topic, name, SamplePosition, clock=clock, **options)
        self._kind = kind
        self._a_second = rate
        self._on_progress = on_progress
        self.summary = SampleSummary(kind, topic, name)

    async def receive(self, publisher: PositionedPublisher[SamplePosition]) -> SampleSummary:
        """Publish what is due from the position on, until `stop`."""
        position = publisher.position or SamplePosition()
        self.summary.position = publisher.position
        coming = self._from(position)
        following = next(coming)
        while not self.stopping:
            due: list[Item] = []
            now = self._clock.now_ms()
            while following[0].time <= now and len(due) < MOST:
                item, position = following
                due.append(item)
                following = next(coming)
            if not due:
                await self._pause(max(SLICE, (following[0].time - now) / 1000))
                continue
            keyed = self._kind is Kind.TWEETS
            await publisher.publish(
                [item.value for item in due],
                position,
                keys=[item.key for item in due] if keyed else None,
            )
            self._count(len(due), position)
            if len(due) < MOST:
                await self._pause(SLICE)
        return self.summary

    def _count(self, records: int, position: SamplePosition) -> None:
        self.published(records)
        self.summary.records += records
        self.summary.transactions += 1
        self.summary.position = position
        if self._on_progress is not None:
            self._on_progress(self.summary)

    def _from(self, position: SamplePosition) -> Iterator[tuple[Item, SamplePosition]]:
        """The items from a position on, each with the position behind it; the first is due now."""
        number, index = position.round, position.index
        due = max(self._clock.now_ms(), position.time + 1)
        while True:
            # If the round began now, its next item would come too late: so much earlier it began.
            start = _moment(due)
            [first] = islice(items(self._kind, number, start, self._a_second), index, index + 1)
            start -= timedelta(milliseconds=first.time - due)
            for item in islice(items(self._kind, number, start, self._a_second), index, None):
                index += 1
                due = item.time + 1
                last = index == ROUND
                yield item, SamplePosition(number + last, 0 if last else index, item.time)
            number, index = number + 1, 0


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
