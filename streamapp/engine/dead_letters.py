"""Dead letters: records that could not be processed, kept with where they came from and why."""

from __future__ import annotations

from streamapp.engine.batch import Record
from streamapp.engine.outbox import Outgoing

__all__ = ["dead_letter"]


def dead_letter(
    target: str, topic: str, partition: int, record: Record, error: Exception, limit: int
) -> Outgoing:
    """Return the dead letter of a record.

    Key, value and headers are kept, the value cut to what the dead-letter topic takes (and, if that
    is not enough, without the key, and then without the record's own headers); headers
    named `streamapp-…` carry topic, partition, offset, timestamp, the error, and the length of a
    value that was cut.
    """
    headers = [
        *record.headers,
        ("streamapp-topic", topic.encode()),
        ("streamapp-partition", str(partition).encode()),
        ("streamapp-offset", str(record.offset).encode()),
        ("streamapp-timestamp", str(record.timestamp).encode()),
        ("streamapp-error", f"{type(error).__name__}: {error}"[:2000].encode(errors="replace")),
    ]
    letter = Outgoing(target, record.key, record.value, headers=headers)
    if letter.size <= limit:
        return letter
    headers.append(("streamapp-cut-from", str(len(record.value or b"")).encode()))
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
