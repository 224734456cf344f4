"""Codecs: what goes in comes out, whatever does not fit is refused with a reason."""

import dataclasses
from typing import Any, TypedDict

import faust
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import DecodeError
from streamapp.state.codecs import codec_for, key_codec_for
from tests.state.quick import QUICK


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


@dataclasses.dataclass(frozen=True)
class Visit:
    page: str
    at: int


class Shape(TypedDict):
    sides: int


class Order(faust.Record):
    id: str
    amount: int


class Refund(faust.Record):
    id: str
    reason: str


INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text()
SCALARS = (
    st.none() | st.booleans() | INT64 | TEXT | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))
KEYS = st.recursive(TEXT | INT64, lambda inner: st.lists(inner).map(tuple), max_leaves=5)


@pytest.mark.parametrize(
    ("value_type", "values"),
    [
        (None, JSON),
        (Any, JSON),
        (str, TEXT),
        (bytes, st.binary()),
        (int, INT64),
        (list[int], st.lists(INT64)),
        (Point, st.builds(Point, INT64, st.floats(-1e9, 1e9))),
        (Visit, st.builds(Visit, TEXT, INT64)),
        (Shape, st.builds(lambda n: {"sides": n}, INT64)),
        (Order, st.builds(Order, TEXT, INT64)),
    ],
    ids=["json", "any", "str", "bytes", "int", "list", "struct", "dataclass", "dict", "record"],
)
@QUICK
@given(data=st.data())
def test_values_come_back(value_type: Any, values: st.SearchStrategy[Any], data: st.DataObject):
    codec = codec_for(value_type)
    value = data.draw(values)
    assert codec.decode(codec.encode(value)) == value


@QUICK
@given(KEYS)
def test_keys_come_back_hashable(key: Any):
    codec = key_codec_for()
    assert {codec.decode(codec.encode(key)): 1} == {key: 1}


@pytest.mark.parametrize(
    ("key_type", "key"),
    [(str, "ab"), (bytes, b"a\0b"), (int, -7), (tuple[str, int], ("a", 1)), (Point, Point(1))],
)
def test_typed_keys_come_back(key_type: Any, key: Any):
    codec = key_codec_for(key_type)
    assert codec.decode(codec.encode(key)) == key


@pytest.mark.parametrize(
    ("value_type", "raw"),
    [
        (str, b"caf\xc3\xa9"),
        (bytes, b"\0\xff"),
        (Visit, b'{"page":"/","at":3}'),
        (int, b"12"),
    ],
)
def test_what_is_stored_does_not_depend_on_code(value_type: Any, raw: bytes):
    codec = codec_for(value_type)
    assert codec.encode(codec.decode(raw)) == raw


def test_a_record_stored_under_another_module_name_is_read():
    stored = b'{"id":"1","amount":2,"__faust":{"ns":"old.home.Order"}}'
    assert codec_for(Order).decode(stored) == Order("1", 2)


def test_a_record_does_not_choose_its_own_class():
    with pytest.raises(DecodeError, match="Order"):
        codec_for(Order).decode(codec_for(Refund).encode(Refund("1", "broken")))


@pytest.mark.parametrize("raw", [b"[1]", b"3", b"null", b"{}"])
def test_json_of_another_shape_is_no_record(raw: bytes):
    with pytest.raises(DecodeError, match="Order"):
        codec_for(Order).decode(raw)


@pytest.mark.parametrize(
    ("value_type", "raw"),
    [
        (None, b"{"),
        (None, b""),
        (int, b'"a"'),
        (str, b"\xff"),
        (Point, b'{"x":"a"}'),
        (Visit, b'{"page":"/"}'),
        (Order, b"\xff"),
    ],
)
def test_bytes_that_are_not_of_the_type_are_refused(value_type: Any, raw: bytes):
    with pytest.raises((ValueError, DecodeError)):
        codec_for(value_type).decode(raw)


@pytest.mark.parametrize(
    ("value_type", "value", "says"),
    [
        (bytes, "text", "bytes is wanted, not str"),
        (str, 5, "str is wanted, not int"),
        (str, b"raw", "str is wanted, not bytes"),
        (Order, {"id": "1"}, "a Order is wanted, not dict"),
        (Order, Refund("1", "x"), "a Order is wanted, not Refund"),
        (None, object(), "object"),
    ],
)
def test_values_of_another_type_are_refused(value_type: Any, value: Any, says: str):
    with pytest.raises(TypeError, match=says):
        codec_for(value_type).encode(value)


def test_decode_overrides_how_bytes_are_read():
    codec = codec_for(bytes, decode=lambda raw: raw.split(b" "))
    assert codec.decode(b"a b") == [b"a", b"b"]
    assert codec.encode(b"a b") == b"a b"


def test_a_buffer_counts_as_bytes():
    assert codec_for(bytes).encode(memoryview(b"ab")) == b"ab"
