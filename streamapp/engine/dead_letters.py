"""Dead letters: records that could not be processed, kept with where they came from and why."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from streamapp.engine.batch import Record
from streamapp.engine.outbox import Headers, Outgoing

__all__ = ["DeadLetter", "dead_letter", "read_dead_letter"]

#: What is told of an error, and of where it was raised, in characters.
_ERROR = 2_000
_TRACEBACK = 4_000
_PACKAGE = str(Path(__file__).parents[1])

_TOPIC = "streamapp-topic"
_PARTITION = "streamapp-partition"
_OFFSET = "streamapp-offset"
_TIMESTAMP = "streamapp-timestamp"
_ERROR_NAME = "streamapp-error"
_AGENT = "streamapp-agent"
_TRACEBACK_NAME = "streamapp-traceback"
_CUT_FROM = "streamapp-cut-from"
_OURS = frozenset(
    {_TOPIC, _PARTITION, _OFFSET, _TIMESTAMP, _ERROR_NAME, _AGENT, _TRACEBACK_NAME, _CUT_FROM}
)


class Kept(Protocol):
    """What is read of a record of the dead-letter topic."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed: where it was, what is wrong, and its bytes.

    Attributes:
        timestamp: the record's own, in milliseconds.
        agent: which one raised the error; `None` when the record could not be read.
        traceback: where, as far as it fits.
        cut_from: how long its value was, if that was cut; its key and headers may be missing then.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    error: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    agent: str | None = None
    traceback: str | None = None
    cut_from: int | None = None


def read_dead_letter(record: Kept) -> DeadLetter | None:
    """Return the dead letter that a record of the topic is, `None` for what others have put there."""
    told = {name: value.decode(errors="replace") for name, value in record.headers if name in _OURS}
    if _OFFSET not in told or _TOPIC not in told:
        return None
    cut_from = told.get(_CUT_FROM)
    return DeadLetter(
        told[_TOPIC],
        int(told[_PARTITION]),
        int(told[_OFFSET]),
        int(told[_TIMESTAMP]),
        told[_ERROR_NAME],
        record.key,
        record.value,
        tuple(header for header in record.headers if header[0] not in _OURS),
        told.get(_AGENT),
        told.get(_TRACEBACK_NAME),
        None if cut_from is None else int(cut_from),
    )


def dead_letter(
    target: str,
    topic: str,
    partition: int,
    record: Record,
    error: Exception,
    limit: int,
    agent: str | None = None,
) -> Outgoing:
    """Return the dead letter of a record.

    Key, value and headers are kept, the value cut to what the dead-letter topic takes (and, if that
    is not enough, without the key, and then without the record's own headers); headers
    named `streamapp-…` carry topic, partition, offset, timestamp, the error, for an agent's error
    the agent and the traceback, and the length of a value that was cut.
    """
    headers = [
        *record.headers,
        (_TOPIC, topic.encode()),
        (_PARTITION, str(partition).encode()),
        (_OFFSET, str(record.offset).encode()),
        (_TIMESTAMP, str(record.timestamp).encode()),
        (_ERROR_NAME, _encoded(f"{type(error).__name__}: {error}"[:_ERROR])),
    ]
    if agent is not None:
        # Of a topic that takes little, the record has the larger part.
        told = min(_TRACEBACK, limit // 8)
        headers += [
            (_AGENT, agent.encode()),
            (_TRACEBACK_NAME, _encoded("".join(_raised_at(error))[-told:])),
        ]
    letter = Outgoing(target, record.key, record.value, headers=headers)
    if letter.size <= limit:
        return letter
    headers.append((_CUT_FROM, str(len(record.value or b"")).encode()))
    letter = letter._replace(headers=headers)
    if letter.size > limit:
        over = letter.size - limit
        letter = letter._replace(
            value=(record.value or b"")[: max(0, len(record.value or b"") - over)]
        )
    if letter.size > limit:
        letter = letter._replace(key=None)
    if letter.size > limit:
        letter = letter._replace(headers=headers[len(record.headers) :])
    return letter


def _raised_at(error: Exception) -> Iterator[str]:
    """Yield the lines of a traceback, from where the engine calls the agent."""
    frames: TracebackType | None = error.__traceback__
    while (
        frames is not None
        and frames.tb_next is not None
        and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE)
    ):
        frames = frames.tb_next
    yield from traceback.TracebackException(type(error), error, frames).format()


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
