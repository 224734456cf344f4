"""Reading an Apache error log, line by line."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import DecodeError, StreamappError
from streamapp.logs import LEVELS, LineDecoder, LogLine, decode_log_line

CLASSIC_TIME = 1133671664000
"""2005-12-04T04:47:44Z."""


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def test_a_classic_line():
    line = decode_log_line(
        b"[Sun Dec 04 04:47:44 2005] [error] mod_jk child workerEnv in error state 6"
    )
    assert line == LogLine(
        time=CLASSIC_TIME,
        level="error",
        module="mod_jk",
        message="mod_jk child workerEnv in error state 6",
    )


def test_a_line_of_apache_2_4():
    line = decode_log_line(
        b"[Wed Oct 11 14:32:52.123456 2000] [core:error] [pid 35708:tid 43] [client ::1:58619]"
        b" AH00128: File does not exist: /usr/local/apache2/htdocs/favicon.ico"
    )
    assert line == LogLine(
        time=milliseconds(datetime(2000, 10, 11, 14, 32, 52, tzinfo=UTC)) + 123,
        level="error",
        module="core",
        message="[client ::1:58619] AH00128: File does not exist:"
        " /usr/local/apache2/htdocs/favicon.ico",
    )


@pytest.mark.parametrize(
    ("rest", "module"),
    [
        (b"[error] mod_jk child init 1 -2", "mod_jk"),
        (b"[error] jk2_init() Can't find child 1566 in scoreboard", "jk2_init"),
        (b"[notice] workerEnv.init() ok /etc/httpd/conf/workers2.properties", "workerEnv"),
        (b"[error] [client 10.0.0.1] Directory index forbidden by rule: /var/www/", "client"),
        (b"[error] [client 10.0.0.1] mod_security: Access denied", "mod_security"),
        (b"[error] [client 10.0.0.1] ModSecurity: Access denied", "ModSecurity"),
        (b"[:error] [pid 7] [client ::1:58619] PHP Warning:  oops", "client"),
        (b"[:error] [pid 7] AH00126: suexec: oops", "suexec"),
        (b"[:error] [pid 7] AH00126: Invalid URI", "core"),
        (b"[notice] caught SIGTERM, shutting down", "core"),
        (b"[notice] suexec: mechanism enabled", "suexec"),
        (b"[ssl:warn] [pid 7] AH01906: server certificate is a CA certificate", "ssl"),
        (b"[mpm_event:notice] [pid 7:tid 140] AH00489: Apache/2.4 configured", "mpm_event"),
        (b"[error]", "core"),
    ],
)
def test_the_module_is_where_the_message_comes_from(rest: bytes, module: str):
    for _ in range(2):  # the second time from what the decoder remembers
        assert decode_log_line(b"[Sun Dec 04 04:47:44 2005] " + rest).module == module


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
def test_a_line_end_is_not_part_of_the_message(end: bytes):
    assert decode_log_line(b"[Sun Dec 04 04:47:44 2005] [warn] low" + end).message == "low"


def test_bytes_that_are_not_utf_8_are_replaced():
    line = decode_log_line(b"[Sun Dec 04 04:47:44 2005] [warn] caf\xe9 \xff caf\xc3\xa9")
    assert line.message == "caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER} café"


def test_a_padded_day_is_read():
    assert decode_log_line(b"[Sun Dec  4 04:47:44 2005] [warn] x").time == CLASSIC_TIME


def test_the_zone_of_the_server_is_a_setting():
    berlin = LineDecoder(ZoneInfo("Europe/Berlin"))
    assert berlin.decode(b"[Sun Dec 04 05:47:44 2005] [warn] x").time == CLASSIC_TIME


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "its time is missing"),
        (b"hello", "its time is 'hello'"),
        (b"Sun Dec 04 04:47:44 2005] [error] x", "its time is"),
        (b"[Sun Dez 04 04:47:44 2005] [error] x", "its time is '[Sun Dez 04 04:47:44 2005'"),
        (b"[Thu Feb 30 04:47:44 2005] [error] x", "day is out of range for month"),
        (b"[Sun Dec 04 24:47:44 2005] [error] x", "hour must be in 0..23"),
        (b"[Sun Dec 04 04:47:44 0000] [error] x", "year 0 is out of range"),
        (b"[Sun Dec 04 04:47:44 2005] error x", "its time is"),
        (b"[Sun Dec 04 04:47:44 2005] [", "its level is missing"),
        (b"[Sun Dec 04 04:47:44 2005] [error", "its level is 'error'"),
        (b"[Sun Dec 04 04:47:44 2005] [shout] x", "its level is 'shout'; expected one of emerg,"),
        (b"[Sun Dec 04 04:47:44 2005] [a:b:error] x", "its level is 'a:b:error'"),
        (b"[Sun Dec 04 04:47:44 2005] [\xff] x", r"its level is '\xff'"),
    ],
)
def test_a_line_that_is_none_is_refused_with_the_part_that_is_wrong(raw: bytes, complaint: str):
    with pytest.raises(DecodeError, match=re.escape(complaint)) as caught:
        decode_log_line(raw)
    assert isinstance(caught.value, StreamappError)


def test_a_complaint_shows_no_more_than_the_start_of_a_long_line():
    with pytest.raises(DecodeError) as caught:
        decode_log_line(b"x" * 1_000_000)
    assert len(str(caught.value)) < 500


MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1))  # noqa: DTZ001
MODULES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
MESSAGES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8")).map(str.strip)


@given(MOMENTS, st.sampled_from(LEVELS), MESSAGES)
def test_classic_lines_agree_with_strptime(moment: datetime, level: str, message: str):
    stamp = moment.strftime("%a %b %d %H:%M:%S ") + f"{moment.year:04}"
    line = decode_log_line(f"[{stamp}] [{level}] {message}".encode())
    oracle = datetime.strptime(stamp, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    assert line.time == milliseconds(oracle)
    assert line.level == level
    if not message.startswith("[pid "):
        assert line.message == message


@given(MOMENTS, MODULES, st.sampled_from(LEVELS), MESSAGES)
def test_lines_of_apache_2_4_agree_with_strptime(
    moment: datetime, module: str, level: str, message: str
):
    stamp = moment.strftime("%a %b %d %H:%M:%S.%f ") + f"{moment.year:04}"
    line = decode_log_line(f"[{stamp}] [{module}:{level}] [pid 7:tid 9] {message}".encode())
    oracle = datetime.strptime(stamp, "%a %b %d %H:%M:%S.%f %Y").replace(tzinfo=UTC)
    whole_seconds = milliseconds(oracle.replace(microsecond=0))
    assert line.time == whole_seconds + oracle.microsecond // 1000
    assert (line.level, line.module) == (level, module)
    if not message.startswith("[pid "):
        assert line.message == message


@given(st.binary(max_size=200))
def test_any_bytes_give_a_line_or_a_decode_error(raw: bytes):
    for candidate in (raw, b"[Sun Dec 04 04:47:44 2005] [" + raw, b"[error] " + raw):
        with suppress(DecodeError):
            assert isinstance(decode_log_line(candidate), LogLine)


def test_what_a_decoder_remembers_is_bounded():
    decoder = LineDecoder()
    for number in range(10_000):
        second = f"{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"
        line = f"[Sun Dec 04 {second} 2005] [m{number}:error] w{number} x"
        assert decoder.decode(line.encode()).module == f"m{number}"
        line = f"[Sun Dec 04 {second} 2005] [error] w{number}: x"
        assert decoder.decode(line.encode()).module == f"w{number}"
    assert max(map(len, (decoder._times, decoder._labels, decoder._sources))) <= 4096
