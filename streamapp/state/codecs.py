"""How keys and values become bytes: one codec a type, chosen from the type.

What is stored depends on the codec and on names, never on code objects, so that new code reads
old state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faust
import msgspec

from streamapp.errors import DecodeError, StoreError

__all__ = ["Codec", "codec_for", "decode_stored", "key_codec_for"]


#: So many bytes of what does not decode are shown.
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Codec:
    """A pair of functions between values and bytes, and the name of the format."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def decode_stored(codec: Codec, raw: bytes, table: str, key: Any) -> Any:
    """Return a value of a table's state.

    Raises:
        StoreError: the table was declared with another type when it was written; no record is to blame.
    """
    try:
        return codec.decode(raw)
    except Exception as error:
        raise StoreError(
            f"{table}[{key!r}] holds {raw[:_SHOWN]!r}, and that does not decode as {codec.name} ({error}): the table was "
            "written with another type. Change it back (a field that is added needs a default), give the table a new "
            "name, or empty it: streamapp reset of its topology"
        ) from error


def _identity(value: bytes) -> bytes:
    return value


def _encode_text(value: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"a value of type str is wanted, not {type(value).__name__}")


def _decode_text(raw: bytes) -> str:
    return str(raw, "utf-8")


def _encode_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a value of type bytes is wanted, not {type(value).__name__}")


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    return value


_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_JSON = Codec("json", _encode_json, _decode_json)
_JSON_KEY = Codec("json", _encode_json, lambda raw: _hashable(_decode_json(raw)))
_BYTES = Codec("bytes", _encode_bytes, _identity)
_TEXT = Codec("str", _encode_text, _decode_text)


def _record_codec(model: type[faust.Record]) -> Codec:
    def encode(value: Any) -> bytes:
        if isinstance(value, model):
            return _encode_json(value.to_representation())
        raise TypeError(f"a {model.__name__} is wanted, not {type(value).__name__}")

    def decode(raw: bytes) -> Any:
        data = _decode_json(raw)
        if not isinstance(data, dict):
            raise DecodeError(
                f"an object is wanted for {model.__name__}, not {type(data).__name__}"
            )
        try:
            # Without the preferred type the record itself would say which class it becomes.
            return model.from_data(data, preferred_type=model)
        except TypeError as error:
            raise DecodeError(f"this is no {model.__name__}: {error}") from error

    return Codec(f"faust:{model.__name__}", encode, decode)


def codec_for(value_type: Any = None, decode: Callable[[bytes], Any] | None = None) -> Codec:
    """Return the codec of a value type.

    `None` and `Any` mean JSON; `bytes` and `str` are taken raw; a `faust.Record` and everything
    that msgspec knows (Struct, dataclass, TypedDict, int, list[...]) are JSON of that shape.
    `decode` overrides how bytes are read, for formats such as a log line.
    """
    if value_type is None or value_type is Any:
        codec = _JSON
    elif value_type is bytes:
        codec = _BYTES
    elif value_type is str:
        codec = _TEXT
    elif isinstance(value_type, type) and issubclass(value_type, faust.Record):
        codec = _record_codec(value_type)
    else:
        decoder = msgspec.json.Decoder(value_type)
        codec = Codec(
            f"json:{getattr(value_type, '__name__', value_type)}", _encode_json, decoder.decode
        )
    return codec if decode is None else dataclasses.replace(codec, decode=decode)


def key_codec_for(key_type: Any = None) -> Codec:
    """Return the codec of a key type: as `codec_for`, but JSON arrays come back as tuples."""
    return _JSON_KEY if key_type is None or key_type is Any else codec_for(key_type)
