"""Topics: Faust's, with event time, and with sends that belong to the batch at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from types import NoneType
from typing import Any

import faust
from faust.serializers import codecs as faust_codecs
from faust.types.tuples import FutureMessage

from streamapp.engine.context import current_outbox
from streamapp.engine.outbox import Headers, Outgoing
from streamapp.errors import ConfigurationError, RecordError
from streamapp.state.codecs import Codec, codec_for
from streamapp.state.time import EventTimes, event_times_of
from streamapp.state.windows import milliseconds

__all__ = ["Topic"]


class Topic(faust.Topic):
    """A topic of the application.

    In a batch agent, `send` and `send_soon` put the record into the transaction of the batch; in
    ordinary Faust code they do what Faust's do.

    Arguments, beside Faust's:
        event_time: where a value's event time is (the name of a field, or a function of the value);
            without it, the record's timestamp.
        event_time_header: the name of a header that holds the event time, in text: milliseconds, or
            ISO 8601.
        grace: for how long (seconds) records may come out of order before they are late.
        decode: reads a value from bytes, for formats that no type describes.

    Values and keys of `str` and `bytes` are taken raw; a topic that Faust has filled with JSON strings
    says `value_serializer="json"`.
    """

    def __init__(
        self,
        *args: Any,
        event_time: str | Callable[[Any], Any] | None = None,
        event_time_header: str | None = None,
        grace: float | timedelta = 0.0,
        decode: Callable[[bytes], Any] | None = None,
        **options: Any,
    ) -> None:
        value_type = options.get("value_type")
        key_type = options.get("key_type")
        for kind, serializer in ((value_type, "value_serializer"), (key_type, "key_serializer")):
            if kind in (str, bytes) and options.get(serializer) is None:
                # Faust means to, and its application's default of JSON gets in the way.
                options[serializer] = "raw"
        schema_types = {"value_type": _for_faust(value_type), "key_type": _for_faust(key_type)}
        super().__init__(*args, **{**options, **schema_types})
        #: Finds the event times of values; `None` means their records' timestamps.
        if event_time is not None and event_time_header is not None:
            raise ConfigurationError(
                "a topic's event time is in its values or in a header, not in both"
            )
        self.event_times: EventTimes | None = event_times_of(event_time)
        self.event_time_header = event_time_header
        self.grace_ms = milliseconds(grace)
        self.value_codec = _codec(value_type, options.get("value_serializer"), decode)
        self.key_codec = _codec(
            bytes if key_type is None else key_type, options.get("key_serializer")
        )
        self.typed_keys = key_type is not None
        self._accepted = _accepted(value_type)

    @property
    def name(self) -> str:
        """The topic's one name.

        Raises:
            ConfigurationError: it is a pattern, or has several names.
        """
        if len(self.topics) != 1:
            raise ConfigurationError(
                f"a batch agent takes one topic by name, not {self.topics or self.pattern!r}"
            )
        return str(self.topics[0])

    def outgoing(
        self,
        key: Any,
        value: Any,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
    ) -> Outgoing:
        """Encode a record for this topic.

        Raises:
            RecordError: the key or value is not of the topic's type.
        """
        if self._accepted is not None and not isinstance(value, self._accepted):
            raise RecordError(
                f"the topic {self.name} does not take this value ({self.value_codec.name}): "
                f"got {type(value).__name__}: {str(value)[:80]!r}"
            )
        return Outgoing(
            self.name,
            None if key is None else self._encode(self.key_codec, key, "key"),
            None if value is None else self._encode(self.value_codec, value, "value"),
            partition,
            None if timestamp is None else round(timestamp * 1000),
            _header_list(headers),
        )

    def _encode(self, codec: Codec, item: Any, what: str) -> bytes:
        if isinstance(item, bytes):
            return item
        if isinstance(item, str) and codec.name == "bytes":
            return item.encode()
        try:
            return codec.encode(item)
        except Exception as error:
            raise RecordError(
                f"the topic {self.name} does not take this {what} ({codec.name}): {error}; "
                f"got {type(item).__name__}: {str(item)[:80]!r}"
            ) from error

    async def send(
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        **options: Any,
    ) -> Any:
        """Send a record: with the batch in a batch agent (it returns `None`), else at once."""
        outbox = current_outbox.get()
        if outbox is None:
            return await super().send(
                key=key,
                value=value,
                partition=partition,
                timestamp=timestamp,
                headers=headers,
                **options,
            )
        outbox.put(self.outgoing(key, value, partition, timestamp, headers))
        return None

    def send_soon(  # type: ignore[override]
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        **options: Any,
    ) -> FutureMessage | None:
        """Send a record without waiting: with the batch in a batch agent, else through Faust's buffer."""
        outbox = current_outbox.get()
        if outbox is None:
            return super().send_soon(
                key=key,
                value=value,
                partition=partition,
                timestamp=timestamp,
                headers=headers,
                **options,
            )
        outbox.put(self.outgoing(key, value, partition, timestamp, headers))
        return None


def _accepted(kind: Any) -> tuple[type, ...] | None:
    """Return what a topic's values may be instances of, `None` for anything that can be encoded.

    Bytes are taken as they are, no value is a tombstone, and an int is a float too.
    """
    if not isinstance(kind, type) or kind in (object, str, bytes):
        return None
    if kind is float:
        return (float, int, bytes, NoneType)
    if kind in (int, bool) or hasattr(kind, "__struct_fields__") or dataclasses.is_dataclass(kind):
        return (kind, bytes, NoneType)
    return None


def _codec(kind: Any, serializer: Any, decode: Callable[[bytes], Any] | None = None) -> Codec:
    """Return how a batch agent reads and writes what Faust's `serializer` names."""
    if serializer is None or (serializer == "json" and kind not in (str, bytes)):
        return codec_for(kind, decode)
    if serializer == "json":
        return codec_for(None, decode)
    if serializer == "raw":
        return codec_for(kind if kind in (str, bytes) else bytes, decode)
    return Codec(
        str(serializer),
        lambda value: faust_codecs.dumps(serializer, value),
        decode or (lambda raw: faust_codecs.loads(serializer, raw)),
    )


def _for_faust(kind: Any) -> Any:
    """Return a type as Faust's own schema understands it; the rest is JSON to it."""
    if kind is None or kind in (bytes, str, int, float):
        return kind
    return kind if isinstance(kind, type) and issubclass(kind, faust.Record) else None


def _header_list(headers: Any) -> Headers:
    if not headers:
        return ()
    pairs = headers.items() if hasattr(headers, "items") else headers
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
