"""The write-ahead log: what was confirmed is read again, whatever happened to its end."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.receivers.errors import SourceError
from streamapp.receivers.wal import Line, LogPlace, WriteAheadLog, _decode, _encode


def log(directory: Path, name: str = "one", **options: int) -> WriteAheadLog:
    return WriteAheadLog(directory, "lines", name, **options)


def lines(*values: bytes) -> list[Line]:
    return [Line(value, len(value)) for value in values]


def everything(opened: WriteAheadLog, place: LogPlace | None = None) -> list[Line]:
    place = opened.first if place is None else place
    found: list[Line] = []
    while part := opened.read(place):
        if not part[0]:
            break
        found += part[0]
        place = part[1]
    return found


def test_what_was_appended_is_read_again_by_the_next_process(tmp_path: Path):
    with log(tmp_path) as first:
        first.append(lines(b"one", b"", b"two"))
    with log(tmp_path) as second:
        second.append(lines(b"three"))
        assert everything(second) == lines(b"one", b"", b"two", b"three")


def test_an_oversized_line_keeps_its_length(tmp_path: Path):
    with log(tmp_path) as opened:
        opened.append([Line(b"begin", 5_000_000)])
        assert everything(opened) == [Line(b"begin", 5_000_000)]


def test_a_line_larger_than_one_read_comes_whole(tmp_path: Path):
    with log(tmp_path) as opened:
        opened.append(lines(b"a", b"x" * 2_000_000, b"b"))
        assert everything(opened) == lines(b"a", b"x" * 2_000_000, b"b")


@pytest.mark.parametrize("cut", [1, 5, 13])
def test_a_torn_end_is_left_out_and_what_follows_is_read(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
):
    with log(tmp_path) as first:
        first.append(lines(b"one", b"two"))
    segment = tmp_path / "000000000001.log"
    segment.write_bytes(segment.read_bytes()[:-cut])
    with log(tmp_path) as second:
        second.append(lines(b"three"))
        assert everything(second) == lines(b"one", b"three")
    assert "was not written to its end" in caplog.text


def test_segments_are_removed_once_committed(tmp_path: Path):
    with log(tmp_path, segment_bytes=1) as opened:
        for value in (b"one", b"two", b"three"):
            opened.append(lines(value))
        _, place = opened.read(opened.first)
        _, place = opened.read(place)
        opened.trim(place)
        assert sorted(path.name for path in tmp_path.glob("*.log")) == [
            "000000000002.log",
            "000000000003.log",
        ]
        assert everything(opened, place) == lines(b"three")
        assert opened.size_from(place) == len(_encode(Line(b"three", 5)))


def test_the_log_of_another_receiver_is_refused(tmp_path: Path):
    log(tmp_path).close()
    with pytest.raises(SourceError, match="is the write-ahead log of receiver 'one'"):
        log(tmp_path, "two")
    log(tmp_path).close()


def test_a_log_in_use_is_refused(tmp_path: Path):
    with log(tmp_path), pytest.raises(SourceError, match="another process keeps"):
        log(tmp_path)


@given(st.lists(st.binary(max_size=20), max_size=10), st.data())
def test_any_prefix_of_a_log_has_its_whole_records(values: list[bytes], data: st.DataObject):
    records = [_encode(line) for line in lines(*values)]
    whole = b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    found, taken = _decode(whole[:cut])
    assert found == lines(*values)[: len(found)]
    assert taken == sum(map(len, records[: len(found)])) <= cut
    assert len(found) == len(records) or taken + len(records[len(found)]) > cut
