"""The wire format: which APIs and versions are served, requests decoded, answers encoded.

kio has one class for each version of each message. Handlers answer with plain mappings under
kio's field names, written for the latest version; what an older version does not have is left out
here, and what is not given has Kafka's default.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from io import BytesIO
from struct import Struct
from typing import Any, Final, NamedTuple, get_args, get_origin

from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError

from .errors import ErrorCode, Malformed

#: A decoded request: the kio class depends on the version, which is not known statically.
Request = Any
#: The fields of an answer, by kio's names.
Answer = Mapping[str, Any]
#: An answer that is encoded already, in parts.
Body = list[bytes]

_HEADER = Struct(">hhih")
_LENGTH = Struct(">h")
_SIZE_CORRELATION = Struct(">ii")


@dataclass(frozen=True, slots=True)
class Api:
    """An API and the versions of it that are served.

    `advertised` is the lowest version in ApiVersions when that is not the lowest served:
    librdkafka switches record batches of format 2 off when it does not see Produce v0 to v2 (Kafka
    4.0 does the same, KAFKA-18659).
    """

    name: str
    key: int
    first: int
    last: int
    advertised: int | None = None


#: Metadata ends at v8: later versions make librdkafka send tagged fields that kio refuses.
#: Produce and Fetch end where the flexible versions begin: both are written by hand here.
APIS: Final = (
    Api("Produce", 0, 3, 8, advertised=0),
    Api("Fetch", 1, 4, 11),
    Api("ListOffsets", 2, 1, 7),
    Api("Metadata", 3, 0, 8),
    Api("OffsetCommit", 8, 2, 8),
    Api("OffsetFetch", 9, 1, 7),
    Api("FindCoordinator", 10, 0, 4),
    Api("JoinGroup", 11, 0, 7),
    Api("Heartbeat", 12, 0, 4),
    Api("LeaveGroup", 13, 0, 4),
    Api("SyncGroup", 14, 0, 5),
    Api("DescribeGroups", 15, 0, 5),
    Api("ListGroups", 16, 0, 4),
    Api("ApiVersions", 18, 0, 3),
    Api("CreateTopics", 19, 2, 6),
    Api("DeleteTopics", 20, 1, 5),
    Api("DeleteRecords", 21, 0, 2),
    Api("InitProducerId", 22, 0, 4),
    Api("OffsetForLeaderEpoch", 23, 2, 4),
    Api("AddPartitionsToTxn", 24, 0, 3),
    Api("AddOffsetsToTxn", 25, 0, 3),
    Api("EndTxn", 26, 0, 3),
    Api("TxnOffsetCommit", 28, 0, 3),
    Api("DescribeConfigs", 32, 1, 4),
    Api("AlterConfigs", 33, 0, 2),
    Api("CreatePartitions", 37, 0, 3),
    Api("DeleteGroups", 42, 0, 2),
    Api("IncrementalAlterConfigs", 44, 0, 1),
    Api("OffsetDelete", 47, 0, 0),
    Api("DescribeCluster", 60, 0, 0),
)
BY_KEY: Final = {api.key: api for api in APIS}
BY_NAME: Final = {api.name: api for api in APIS}
API_VERSIONS: Final = BY_NAME["ApiVersions"]


class Call(NamedTuple):
    """Which request is being answered, who asked, and under which name they know this broker."""

    api: Api
    version: int
    correlation_id: int
    client_id: str
    peer: str
    here: str


def read_header(frame: bytes, peer: str, here: str) -> tuple[Call, int]:
    """The header of a request (KIP-482), and where its body begins.

    Raises `Malformed` for what is no request, or none that is served. An ApiVersions request of an
    unknown version comes back as version -1, to be answered with what there is (KIP-511).
    """
    try:
        key, version, correlation_id, length = _HEADER.unpack_from(frame)
        api = BY_KEY[key]
        end = _HEADER.size + max(length, 0)
        if end > len(frame):
            raise Malformed("the client id is longer than the request")
        client_id = frame[_HEADER.size : end].decode()
    except KeyError:
        raise Malformed(f"API {key} is not served") from None
    except UnicodeDecodeError:
        raise Malformed("the client id is not UTF-8") from None
    except Exception as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(f"{len(frame)} bytes are no request") from None
    if not api.first <= version <= api.last:
        if api is not API_VERSIONS:
            raise Malformed(f"{api.name} v{version} is not served")
        return Call(api, -1, correlation_id, client_id, peer, here), end
    if _is_flexible(key, version):
        if frame[end : end + 1] != b"\0":
            raise Malformed("tagged fields in the request's header")
        end += 1
    return Call(api, version, correlation_id, client_id, peer, here), end


@cache
def _is_flexible(key: int, version: int) -> bool:
    return load_request_schema(key, version).__flexible__


def read_request(call: Call, frame: bytes, start: int) -> Request:
    """The body of a request, as kio's class for its version; `Malformed` if it is not one."""
    try:
        request, size = _reader(call.api.key, call.version)(frame, start)
    except (SerialError, ValueError, OverflowError, UnicodeError) as error:
        raise Malformed(
            f"{call.api.name} v{call.version}: {error or type(error).__name__}"
        ) from None
    left = len(frame) - start - size
    if left:
        raise Malformed(f"{call.api.name} v{call.version}: {left} bytes too many")
    return request


@cache
def _reader(key: int, version: int) -> Callable[[bytes, int], tuple[Any, int]]:
    return entity_reader(load_request_schema(key, version))


def write_answer(call: Call, answer: Answer) -> bytes:
    """The whole response frame."""
    key, version = call.api.key, max(call.version, 0)
    build, write, flexible_header = _writer(key, version)
    buffer = BytesIO()
    write(buffer, build(answer))
    body = buffer.getvalue()
    if flexible_header:
        body = b"\0" + body
    return _SIZE_CORRELATION.pack(len(body) + 4, call.correlation_id) + body


def write_body(call: Call, body: Body) -> bytes:
    """The whole response frame around a body that is encoded already (never flexible)."""
    size = sum(map(len, body)) + 4
    return b"".join((_SIZE_CORRELATION.pack(size, call.correlation_id), *body))


@cache
def _writer(
    key: int, version: int
) -> tuple[Callable[[Answer], Any], Callable[[BytesIO, Any], None], bool]:
    response = load_response_schema(key, version)
    flexible_header = response.__header_schema__.__version__ == 1
    return builder(response), entity_writer(response), flexible_header


_IMPLICIT: Final[Mapping[str, object]] = {
    "bool": False,
    "string": "",
    "bytes": b"",
    "records": b"",
    "error_code": ErrorCode.none,
    "timedelta_i32": datetime.timedelta(0),
    "timedelta_i64": datetime.timedelta(0),
    "float64": 0.0,
}


def builder(entity: type) -> Callable[[Answer], Any]:
    """A function that makes an instance of a kio class from a mapping."""
    plain: list[tuple[str, object]] = []
    nested: list[tuple[str, Callable[[Answer], Any], object]] = []
    for each in fields(entity):
        inner = _nested(each.type)
        if inner is None:
            plain.append((each.name, _default(each)))
        else:
            nested.append((each.name, builder(inner), _default(each)))

    def build(answer: Answer) -> Any:
        values = {name: answer.get(name, default) for name, default in plain}
        for name, build_one, default in nested:
            items = answer.get(name, default)
            values[name] = None if items is None else tuple(map(build_one, items))
        return entity(**values)

    return build


def _nested(annotation: Any) -> type | None:
    if is_dataclass(annotation):
        assert isinstance(annotation, type)
        return annotation
    for argument in get_args(annotation):
        found = _nested(argument)
        if found is not None:
            return found
    return None


def _default(each: Field[Any]) -> object:
    if each.default is not MISSING:
        return each.default
    if get_origin(each.type) is tuple or any(get_origin(a) is tuple for a in get_args(each.type)):
        return ()
    if type(None) in get_args(each.type):
        return None
    return _IMPLICIT.get(each.metadata.get("kafka_type", ""), 0)


def pack_string(value: str) -> bytes:
    """A string of a version that is not flexible."""
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def milliseconds(duration: datetime.timedelta) -> int:
    """A duration as kio decodes it, in milliseconds."""
    return duration // datetime.timedelta(milliseconds=1)
