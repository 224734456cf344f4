"""What a test looks at: records that the application sent, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamapp.engine.outbox import Headers
from streamapp.engine.topic import Topic
from streamapp.testing.log import LoggedRecord

__all__ = ["Sent", "sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A record that a committed transaction contains: key and value decoded as its topic says.

    `timestamp` is in milliseconds.
    """

    key: Any
    value: Any
    headers: Headers
    timestamp: int
    partition: int
    offset: int


def sent(record: LoggedRecord, topic: Topic | None) -> Sent:
    """Return a record decoded by its topic's codecs, or as bytes when nobody declared the topic."""
    key: Any = record.key
    value: Any = record.value
    if topic is not None:
        if key is not None:
            key = topic.key_codec.decode(key)
        if value is not None:
            value = topic.value_codec.decode(value)
    return Sent(key, value, record.headers, record.timestamp, record.partition, record.offset)
