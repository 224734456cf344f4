"""Topics: how records are encoded, and that sends belong to the batch at hand."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import faust
import msgspec
import pytest

from streamapp.engine.context import current_outbox
from streamapp.engine.outbox import Outbox, Outgoing
from streamapp.errors import ConfigurationError, RecordError
from tests.engine.tasks import an_app

app = an_app()


class Point(msgspec.Struct):
    x: int


class Order(faust.Record):
    id: int


@pytest.mark.parametrize(
    ("options", "value", "raw"),
    [
        ({}, {"a": [1, None]}, b'{"a":[1,null]}'),
        ({}, "text", b'"text"'),
        ({"value_type": str}, "text", b"text"),
        ({"value_type": bytes}, b"raw", b"raw"),
        ({"value_type": bytes}, "text", b"text"),
        ({"value_type": Point}, Point(1), b'{"x":1}'),
        ({"value_type": str}, b"as it is", b"as it is"),
        ({"value_type": str, "value_serializer": "json"}, "text", b'"text"'),
        ({"value_serializer": "raw"}, b"raw", b"raw"),
        ({"value_serializer": "binary"}, "text", b"dGV4dA=="),
        ({}, None, None),
    ],
)
def test_values_are_encoded_as_the_topic_says(
    options: dict[str, Any], value: Any, raw: bytes | None
) -> None:
    assert app.topic("t", **options).outgoing(None, value).value == raw


def test_faust_and_batch_agents_agree_on_text() -> None:
    topic = app.topic("t", key_type=str, value_type=str)
    key, _ = topic.prepare_key("clé", None)
    value, _ = topic.prepare_value("été", None)
    assert (key, value) == ("clé".encode(), "été".encode())
    assert topic.outgoing("clé", "été")[1:3] == (key, value)


def test_a_faust_record_comes_back_as_it_was() -> None:
    topic = app.topic("t", value_type=Order)
    raw = topic.outgoing(None, Order(id=5)).value
    assert raw is not None
    assert topic.value_codec.decode(raw) == Order(id=5)


def test_keys_are_text_or_bytes_without_a_key_type() -> None:
    topic = app.topic("t")
    assert topic.outgoing("k", 1).key == topic.outgoing(b"k", 1).key == b"k"
    assert topic.outgoing(None, 1).key is None
    with pytest.raises(RecordError, match="t does not take this key"):
        topic.outgoing(5, 1)


def test_what_a_topic_does_not_take_is_shown() -> None:
    with pytest.raises(
        RecordError, match=r"the topic t does not take this value \(str\).*int: '5'"
    ):
        app.topic("t", value_type=str).outgoing(None, 5)


def test_partition_timestamp_and_headers_go_with_it() -> None:
    record = app.topic("t").outgoing("k", 1, 3, 1.5, {"h": "x"})
    assert record == Outgoing("t", b"k", b"1", 3, 1500, [("h", b"x")])


def test_a_topic_of_several_names_has_no_one_name() -> None:
    with pytest.raises(ConfigurationError, match="one topic by name"):
        _ = app.topic("a", "b").name


@pytest.mark.parametrize("way", ["send", "send_soon"])
async def test_in_a_batch_agent_a_send_belongs_to_its_batch(way: str) -> None:
    outbox = Outbox({}, 1000)
    topic = app.topic("t")

    async def agent() -> None:
        current_outbox.set(outbox)
        if way == "send":
            assert await topic.send(key="k", value=1) is None
        else:
            assert topic.send_soon(key="k", value=1) is None

    await asyncio.get_running_loop().create_task(agent(), context=copy_context())
    assert outbox.take() == [Outgoing("t", b"k", b"1")]


@pytest.mark.parametrize(
    ("kind", "value"), [(int, 2.5), (int, "2"), (Point, 3), (bool, 1), (float, "much")]
)
def test_a_value_of_another_type_is_refused(kind: type, value: Any) -> None:
    with pytest.raises(RecordError, match="the topic t does not take this value"):
        app.topic("t", value_type=kind).outgoing(None, value)


@pytest.mark.parametrize(("kind", "value"), [(float, 2), (int, True), (int, None), (Point, b"{}")])
def test_a_value_that_stands_for_one_is_taken(kind: type, value: Any) -> None:
    app.topic("t", value_type=kind).outgoing(None, value)
