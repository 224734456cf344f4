"""Streams between tasks: records sent on to whoever owns their key.

A `KeyBy` is a repartition topic. With an aggregation it combines within the batch: a count of a
million records over ten keys sends ten records. Records carry their event time as their timestamp,
and every checkpoint ends with a word to each downstream partition of how far its task has come
(a record without key and value, in the same transaction).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

from streamapp.engine.outbox import Outbox, Outgoing
from streamapp.engine.topic import Topic
from streamapp.errors import ConfigurationError, TableError
from streamapp.state.aggregates import Aggregate
from streamapp.state.cursor import Cursor
from streamapp.state.ended import Ended
from streamapp.state.time import to_milliseconds
from streamapp.state.windows import milliseconds

__all__ = ["Combiner", "KeyBy", "UpstreamMark", "is_mark", "mark_record", "read_mark"]

#: What a repartition topic is made with: it is trimmed behind the committed offset, not by age.
CONFIG = {
    "retention.ms": "-1",
    "message.timestamp.type": "CreateTime",
    # Event time may be ahead of the clock; Kafka refuses an hour by default (KIP-937).
    "message.timestamp.after.max.ms": "9223372036854775807",
}

_HEADER = "streamapp-watermark"


class UpstreamMark(NamedTuple):
    """How far an upstream task has come: `time` is `None` before it knows."""

    upstream: str
    time: int | None
    idle: bool


def mark_record(topic: str, partition: int, mark: UpstreamMark, now: int) -> Outgoing:
    """Return the record that carries a mark."""
    time = "" if mark.time is None else str(mark.time)
    body = f"{mark.upstream}\n{time}\n{int(mark.idle)}".encode()
    return Outgoing(topic, None, None, partition, now, ((_HEADER, body),))


def is_mark(record: Any) -> bool:
    """Whether a record carries a mark instead of data."""
    return (
        record.value is None and record.key is None and any(n == _HEADER for n, _ in record.headers)
    )


def read_mark(record: Any) -> UpstreamMark:
    """Return the mark that a record carries."""
    body = next(value for name, value in record.headers if name == _HEADER)
    upstream, time, idle = body.decode().split("\n")
    return UpstreamMark(upstream, int(time) if time else None, idle == "1")


class Combiner:
    """The live side of a `KeyBy` in one task: partial aggregates of the batch at hand."""

    def __init__(self, key_by: KeyBy, outbox: Outbox, cursor: Cursor) -> None:
        self.key_by = key_by
        self._outbox = outbox
        self._cursor: Any = cursor
        self._partials: Any = {}

    def add(self, key: Any, value: Any, at: int | None) -> None:
        """Combine a value into its key's partial, or send it on its own without an aggregation."""
        cursor = self._cursor
        if at is None:
            if cursor.index < 0:
                raise TableError(
                    f"there is no record at hand: {self.key_by.name}.add(key, value, at=time) says when it was"
                )
            at = cursor.times[cursor.index]
        aggregate = self.key_by.aggregate
        if aggregate is None:
            self._outbox.put(self.key_by.outgoing(key, value, timestamp=at / 1000))
            return
        pane = self.key_by.pane_ms
        start = at - at % pane if pane else 0
        partials = self._partials.get(start)
        if partials is None:
            partials = self._partials[start] = {}
        partial = partials.get(key)
        if partial is None:
            partial = aggregate.zero()
        partials[key] = partial + value if aggregate.additive else aggregate.add(partial, value)

    def flush(self, latest: int) -> None:
        """Put the partials into the outbox; without panes they carry the `latest` event time."""
        key_by, put = self.key_by, self._outbox.put
        for start, partials in self._partials.items():
            at = start if key_by.pane_ms else latest
            for key, partial in partials.items():
                put(key_by.outgoing(key, partial)._replace(timestamp=at))
        self._partials = {}

    def end(self) -> None:
        """The batch is over: nothing is added any more."""
        self._cursor = self._partials = Ended(self.key_by.name)


class KeyBy(Topic):
    """A stream re-keyed through a topic of the application's own: `app.key_by(name, …)`.

    Arguments, beside a topic's:
        aggregate: combines values of the same key within a batch; what arrives is a partial
            accumulator of it (for `Count` and `Sum`: a number to add, for others: to `merge`).
        pane: event time (seconds) is kept to this precision when combining; make it the pane of
            the window that counts, the greatest common divisor of its size and step. Without it
            what is combined has the batch's latest event time.
    """

    aggregate: Aggregate | None = None
    pane_ms: int = 0

    def __init__(
        self,
        *args: Any,
        aggregate: Aggregate | None = None,
        pane: float | None = None,
        **options: Any,
    ) -> None:
        options["config"] = {**CONFIG, **(options.get("config") or {})}
        options.setdefault("key_type", Any)
        super().__init__(*args, **{**options, "key_type": options["key_type"]})
        self.aggregate = aggregate
        self.pane_ms = 0 if pane is None else milliseconds(pane)
        self._combiners: ContextVar[Combiner] = ContextVar(f"streamapp-key-by-{self.topics}")

    def bind(self, combiner: Combiner) -> None:
        """Make a live side the one that this context sees."""
        self._combiners.set(combiner)

    def add(self, key: Any, value: Any = 1, *, at: Any = None) -> None:
        """Send a value to the owner of its key, at the event time of the record at hand.

        Raises:
            ConfigurationError: outside a batch agent, or in one that does not name this `key_by`.
        """
        try:
            combiner = self._combiners.get()
        except LookupError:
            raise ConfigurationError(
                f"{self.name} was used where no task has it: use it in a batch agent, and if the agent does not "
                "name it in its own body, declare it: @app.batch_agent(…, uses=[…])"
            ) from None
        combiner.add(key, value, None if at is None else to_milliseconds(at))
