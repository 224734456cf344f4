"""A file of frames: what was appended is there, or the file says that it is damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.broker.errors import JournalCorrupt
from streamapp.broker.journal import FRAME_OVERHEAD, FrameFile, frame

payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


def recovered(path: Path, *, whole: bool = False) -> list[bytes]:
    file = FrameFile(path)
    try:
        return [payload for _, payload in file.recover(whole=whole)]
    finally:
        file.close()


def written(directory: str, appended: list[bytes]) -> Path:
    path = Path(directory) / "frames"
    file = FrameFile(path)
    for payload in appended:
        position = file.append(payload)
        assert file.read(position, len(payload)) == payload
    file.close()
    return path


@settings(deadline=None)
@given(payloads, st.data())
def test_cut_at_any_byte_it_holds_the_frames_that_were_whole(
    appended: list[bytes], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = written(directory, appended)
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        sizes = [len(frame(payload)) for payload in appended]
        count = sum(sum(sizes[: n + 1]) <= cut for n in range(len(sizes)))

        assert recovered(path) == appended[:count]
        assert path.stat().st_size == sum(sizes[:count])

        file = FrameFile(path)
        file.append(b"next")
        file.close()
        assert recovered(path) == [*appended[:count], b"next"]


@settings(deadline=None)
@given(payloads, st.data())
def test_a_flipped_bit_is_detected(appended: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = written(directory, appended)
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

        with pytest.raises(JournalCorrupt, match="damaged at byte"):
            recovered(path)
        assert path.read_bytes() == content


def test_a_torn_end_is_damage_where_the_file_was_finished(tmp_path: Path) -> None:
    path = written(str(tmp_path), [b"one", b"two"])
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(JournalCorrupt, match="not whole"):
        recovered(path, whole=True)


def test_an_append_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(str(tmp_path), [b"one"])
    file = FrameFile(path)
    list(file.recover())

    def full(fd: int, data: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("streamapp.broker.journal.os.pwrite", full)
        with pytest.raises(OSError, match="No space"):
            file.append(b"lost")
    file.append(b"two")
    file.close()

    assert recovered(path) == [b"one", b"two"]


def test_reading_beyond_the_end_is_damage(tmp_path: Path) -> None:
    file = FrameFile(written(str(tmp_path), [b"one"]))

    with pytest.raises(JournalCorrupt):
        file.read(FRAME_OVERHEAD, 4)
    file.close()
