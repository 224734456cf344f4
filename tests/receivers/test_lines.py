"""Lines out of chunks: the same lines, wherever the chunks are cut."""

from hypothesis import given
from hypothesis import strategies as st

from streamapp.receivers.lines import OVERSIZED_BYTES, LineSplitter, OversizedLine

CONTENT = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bc", b"\xff\x00", b"\xc3\xa9", b"lonely" * 4]),
    max_size=60,
).map(b"".join)
LIMIT = 12


def oracle(content: bytes) -> tuple[list[bytes], list[tuple[int, int, int]], int]:
    """Lines, (number, offset, length) of the oversized ones, and how many all in all."""
    pieces = content.split(b"\n")
    if pieces[-1] == b"":
        pieces.pop()
    lines, oversized, offset = [], [], 0
    for number, piece in enumerate(pieces):
        if len(piece) > LIMIT:
            oversized.append((number, offset, len(piece)))
        else:
            lines.append(piece.removesuffix(b"\r"))
        offset += len(piece) + 1
    return [line for line in lines if line], oversized, len(pieces)


@given(CONTENT, st.data())
def test_lines_do_not_depend_on_chunks_or_on_how_many_are_taken_at_once(
    content: bytes, data: st.DataObject
):
    splitter = LineSplitter(LIMIT)
    lines: list[bytes] = []
    oversized: list[tuple[int, int, int]] = []

    def take() -> None:
        while splitter.ready:
            before = splitter.offset, splitter.line
            taken = splitter.take(data.draw(st.integers(1, 5), label="most"))
            lines.extend(taken.lines)
            oversized.extend((line.number, line.offset, line.length) for line in taken.oversized)
            assert splitter.offset == before[0] + taken.size
            assert splitter.line == before[1] + taken.taken
            assert (
                content[: splitter.offset].count(b"\n")
                + (splitter.offset == len(content) and not content.endswith(b"\n"))
                == splitter.line
            )

    rest = content
    while rest:
        size = data.draw(st.integers(1, len(rest)), label="chunk")
        splitter.feed(rest[:size])
        rest = rest[size:]
        if data.draw(st.booleans(), label="take now"):
            take()
    take()
    assert splitter.partial == (content != b"" and not content.endswith(b"\n"))
    splitter.finish()
    take()

    assert (lines, oversized, splitter.line) == oracle(content)
    assert splitter.offset == len(content)


def test_only_the_beginning_of_an_endless_line_is_held():
    splitter = LineSplitter(limit=100)
    for _ in range(1000):
        splitter.feed(b"x" * 10_000)
    assert len(splitter._rest) <= OVERSIZED_BYTES
    splitter.feed(b"\nnext\n")
    taken = splitter.take(10)
    assert taken.lines == [b"next"]
    assert taken.oversized == [OversizedLine(0, 0, 10_000_000, b"x" * OVERSIZED_BYTES)]
    assert taken.size == 10_000_006


def test_counting_goes_on_from_where_a_splitter_starts():
    splitter = LineSplitter(limit=3, offset=1000, line=50)
    splitter.feed(b"ab\nabcd\n")
    taken = splitter.take(10)
    assert taken.oversized == [OversizedLine(51, 1003, 4, b"abcd")]
    assert (splitter.offset, splitter.line) == (1008, 52)
