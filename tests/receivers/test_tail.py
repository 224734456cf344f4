"""A file that grows, is rotated and truncated: every line once, whenever the reading is resumed."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.receivers.errors import SourceError
from streamapp.receivers.tail import FilePosition, FileTail

LIMIT = 1000


class Reading:
    """A tail of a file, which may be closed and resumed, and every line that came out."""

    def __init__(self, path: Path, follow: bool = True) -> None:
        self.path = path
        self.follow = follow
        self.lines: list[bytes] = []
        self.position: FilePosition | None = None
        self.resume()

    def resume(self) -> None:
        self.tail = FileTail(self.path, self.position, follow=self.follow, limit=LIMIT)

    def go_on(self, most: int = 100, polls: int = 3) -> list[bytes]:
        """Read until nothing comes in `polls` looks; returns what came."""
        came: list[bytes] = []
        while polls and not self.tail.finished:
            piece = self.tail.read(most)
            if piece is None:
                polls -= 1
            else:
                came += piece.lines.lines
                self.position = piece.position
        self.lines += came
        return came

    def close(self) -> None:
        self.tail.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def rotate(path: Path) -> None:
    path.rename(path.with_name(path.name + ".1"))


def copy_truncate(path: Path) -> None:
    shutil.copy(path, path.with_name(path.name + ".1"))
    os.truncate(path, 0)


def test_a_file_is_read_to_its_end(log: Path):
    append(log, b"one\ntwo\nthree")
    reading = Reading(log, follow=False)
    assert reading.go_on() == [b"one", b"two", b"three"]
    assert reading.tail.finished
    assert reading.position is not None
    assert (reading.position.offset, reading.position.line) == (13, 3)


def test_reading_resumes_behind_what_was_read(log: Path):
    append(log, b"one\r\ntwo\r\nthree\r\n")
    reading = Reading(log)
    assert reading.tail.read(2) is not None
    piece = FileTail(log, follow=True, limit=LIMIT).read(2)
    assert piece is not None
    reading.position = piece.position
    reading.resume()
    assert reading.go_on() == [b"three"]


def test_a_growing_file_is_followed(log: Path):
    append(log, b"one\n")
    reading = Reading(log)
    assert reading.go_on() == [b"one"]
    append(log, b"two\nthr")
    assert reading.go_on() == [b"two"]
    append(log, b"ee\n")
    assert reading.go_on() == [b"three"]
    assert not reading.tail.finished


def test_an_unfinished_line_is_read_again_after_a_restart(log: Path):
    append(log, b"one\ntw")
    reading = Reading(log)
    reading.go_on()
    append(log, b"o\n")
    reading.resume()
    reading.go_on()
    assert reading.lines == [b"one", b"two"]


def test_a_file_that_is_followed_may_come_later(log: Path):
    reading = Reading(log)
    assert reading.go_on() == []
    append(log, b"one\n")
    assert reading.go_on() == [b"one"]


def test_a_file_that_is_not_there_is_refused(log: Path):
    with pytest.raises(SourceError, match="No such file"):
        Reading(log, follow=False)


def test_a_directory_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match="regular file"):
        Reading(tmp_path, follow=False)


def test_a_pipe_is_refused(log: Path):
    os.mkfifo(log)
    with pytest.raises(SourceError, match="regular file"):
        Reading(log, follow=False)


def test_a_rotated_file_is_finished_before_the_new_one(log: Path):
    append(log, b"one\n")
    reading = Reading(log)
    reading.go_on()
    append(log, b"two\n")
    rotate(log)
    append(log.with_name("app.log.1"), b"three")
    append(log, b"four\n")
    assert reading.go_on() == [b"two", b"three", b"four"]
    assert reading.position is not None
    assert (reading.position.offset, reading.position.line) == (5, 1)


def test_a_writer_may_go_on_for_a_moment_after_rotation(log: Path):
    append(log, b"one\n")
    reading = Reading(log)
    reading.go_on()
    rotate(log)
    append(log, b"three\n")
    assert reading.tail.read(10) is None
    append(log.with_name("app.log.1"), b"two\n")
    assert reading.go_on() == [b"two", b"three"]


def test_between_two_names_a_file_is_still_followed(log: Path):
    append(log, b"one\n")
    reading = Reading(log)
    reading.go_on()
    rotate(log)
    assert reading.go_on() == []
    append(log.with_name("app.log.1"), b"two\n")
    assert reading.go_on() == [b"two"]


@pytest.mark.parametrize("follow", [True, False])
def test_a_file_that_was_rotated_while_nobody_read_is_found_and_finished(log: Path, follow: bool):
    append(log, b"one\ntwo\nthree\n")
    reading = Reading(log, follow)
    piece = reading.tail.read(1)
    assert piece is not None
    reading.position = piece.position
    rotate(log)
    append(log, b"four\n")
    reading.resume()
    assert reading.go_on() == [b"two", b"three", b"four"]


def test_a_truncated_file_is_read_from_its_beginning(log: Path):
    append(log, b"one\ntwo\n")
    reading = Reading(log)
    reading.go_on()
    copy_truncate(log)
    assert reading.go_on() == []
    append(log, b"three\n")
    assert reading.go_on() == [b"three"]


def test_a_truncated_file_that_has_outgrown_what_was_read_is_noticed(log: Path):
    append(log, b"one\n")
    reading = Reading(log)
    reading.go_on()
    copy_truncate(log)
    append(log, b"two\nthree\nfour\n")
    assert reading.go_on() == [b"two", b"three", b"four"]


def test_the_unfinished_line_of_a_truncated_file_counts(log: Path):
    append(log, b"one\ntw")
    reading = Reading(log)
    reading.go_on()
    copy_truncate(log)
    append(log, b"three\n")
    assert reading.go_on() == [b"tw", b"three"]


def test_a_file_that_was_truncated_while_nobody_read_is_found_in_its_copy(log: Path):
    append(log, b"one\ntwo\nthree\n")
    reading = Reading(log)
    piece = reading.tail.read(1)
    assert piece is not None
    reading.position = piece.position
    copy_truncate(log)
    append(log, b"four\n")
    reading.resume()
    assert reading.go_on() == [b"two", b"three", b"four"]


def test_another_file_in_its_place_is_read_from_its_beginning(log: Path):
    append(log, b"one\ntwo\n")
    reading = Reading(log)
    reading.go_on()
    log.write_bytes(b"uno\ndos\ntres\n")
    reading.resume()
    assert reading.go_on() == [b"uno", b"dos", b"tres"]


def test_a_file_that_was_moved_elsewhere_and_back_is_known_by_its_content(log: Path):
    append(log, b"one\ntwo\n")
    reading = Reading(log)
    piece = reading.tail.read(1)
    assert piece is not None
    reading.position = piece.position
    copied = log.read_bytes()
    rotate(log)
    log.with_name("app.log.1").unlink()
    append(log, copied)
    reading.resume()
    assert reading.go_on() == [b"two"]


def test_a_compressed_file_is_not_taken_for_a_rotated_one(log: Path):
    append(log, b"one\ntwo\n")
    reading = Reading(log)
    piece = reading.tail.read(1)
    assert piece is not None
    reading.position = piece.position
    log.rename(log.with_name("app.log.1.gz"))
    append(log, b"three\n")
    reading.resume()
    assert reading.go_on() == [b"three"]


def test_lag_is_what_is_left_of_the_file(log: Path):
    append(log, b"one\ntwo\n")
    with FileTail(log, follow=True, limit=LIMIT) as tail:
        assert (tail.lag(), tail.caught_up()) == (8, False)
        tail.read(1)
        assert (tail.lag(), tail.caught_up()) == (4, False)
        tail.read(1)
        assert (tail.lag(), tail.caught_up(), tail.size()) == (0, True, 8)


STEPS = st.lists(
    st.sampled_from(["line", "line", "part", "read", "read some", "resume", "rotate"]), max_size=40
)


@settings(deadline=None)
@given(STEPS)
def test_whatever_happens_every_line_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
):
    log = tmp_path_factory.mktemp("tail") / "app.log"
    append(log, b"the first line, so that a fingerprint tells files apart\n")
    expected = [b"the first line, so that a fingerprint tells files apart"]
    part, rotations = b"", 0
    reading = Reading(log)

    def settle() -> None:
        reading.go_on(polls=4)

    for number, step in enumerate(steps):
        if step == "line":
            line = part + b"line %d" % number
            append(log, b"line %d\n" % number)
            expected.append(line)
            part = b""
        elif step == "part":
            append(log, b"part %d " % number)
            part += b"part %d " % number
        elif step == "read":
            settle()
        elif step == "read some":
            reading.go_on(most=1, polls=1)
        elif step == "resume":
            reading.close()
            reading.resume()
        elif step == "rotate":
            settle()  # a second rotation while nobody reads is beyond what is promised
            rotations += 1
            if part:
                expected.append(part)
                part = b""
            log.rename(log.with_name(f"app.log.{rotations}"))
            append(log, b"file %d\n" % rotations)
            expected.append(b"file %d" % rotations)
    settle()
    assert reading.lines == expected
    reading.close()
