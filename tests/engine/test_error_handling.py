"""What becomes of a batch whose agent raises, on the engine's own task with a log in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp import App, Backoff, Batches, Budget, Count, ErrorPolicy, OnError
from streamapp.engine.checkpoint import Slice
from streamapp.engine.error_handling import ErrorHandling
from streamapp.engine.parts import Fault, Part
from streamapp.engine.settings import EngineSettings, Guarantee
from streamapp.engine.topic import Topic
from streamapp.errors import AgentFailed, TaskClosed
from streamapp.state.table import Table
from streamapp.testing import AppTest
from tests.engine.tasks import Record, an_app
from tests.state.quick import QUICK


class Poisoned(Exception):
    """What an agent makes of a poison record."""


class Job(NamedTuple):
    """An agent that counts and echoes numbers, and cannot bear what is below zero."""

    app: App
    numbers: Topic
    echoed: Topic
    totals: Table[Any]
    #: How many batches it was given.
    given: list[int]

    def run(self, **options: Any) -> AppTest:
        return self.app.test(partitions=1, error_policies=True, **options)


def job(
    errors: Any = None,
    *,
    columns: bool = False,
    fails: Callable[[int], bool] = lambda number: number < 0,
    error: Callable[[str], Exception] = Poisoned,
) -> Job:
    app = an_app()
    numbers = app.topic("numbers", value_type=int)
    echoed = app.topic("echoed", value_type=int)
    totals = app.BatchTable("totals", default=int, key_type=int)
    given: list[int] = []

    @app.batch_agent(numbers, errors=errors)
    async def echo(batches: Batches) -> None:
        async for batch in batches:
            given.append(len(batch))
            if columns:
                for number in batch.values:
                    totals[number] += 1
                if any(map(fails, batch.values)):
                    raise error("somewhere")
                for number in batch.values:
                    await echoed.send(value=number)
                continue
            for number in batch:
                totals[number] += 1
                await echoed.send(value=number)
                if fails(number):
                    raise error(f"no {number}")

    return Job(app, numbers, echoed, totals, given)


async def feed(t: AppTest, topic: Topic, values: Any) -> None:
    async with t.batch():
        for value in values:
            await t.send(topic, value)


def echoed(t: AppTest, job: Job) -> list[int]:
    return [sent.value for sent in t.output(job.echoed)]


def check_ranges_meet(t: AppTest, until: int) -> None:
    ranges = [(b.from_offset, b.until_offset) for entry in t.ledger for b in entry.batches]
    assert [begin for begin, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == until


# ---------------------------------------------------------------------- the record that is to blame


@QUICK
@given(
    st.lists(st.sampled_from([1, 2, 3, -1]), min_size=1, max_size=30),
    st.integers(1, 30),
    st.booleans(),
)
async def test_every_good_record_takes_effect_once_and_every_poison_is_one_dead_letter(
    numbers: list[int], cut: int, columns: bool
) -> None:
    j = job(columns=columns)
    good = [number for number in numbers if number > 0]
    async with j.run() as t:
        t.cut_every(cut)
        await feed(t, j.numbers, numbers)
        assert echoed(t, j) == good
        assert dict(j.totals.items()) == {number: good.count(number) for number in set(good)}
        poison = [offset for offset, number in enumerate(numbers) if number < 0]
        assert [letter.offset for letter in t.dead_letters] == poison
        assert sum(entry.dead_letters for entry in t.ledger) == len(poison)
        check_ranges_meet(t, len(numbers))
        await t.restart()
        assert dict(j.totals.items()) == {number: good.count(number) for number in set(good)}


async def test_one_poison_record_in_ten_thousand_is_one_dead_letter_and_three_checkpoints() -> None:
    j = job()
    async with j.run() as t:
        await feed(t, j.numbers, [-1 if n == 6_000 else n for n in range(10_000)])
        assert [letter.offset for letter in t.dead_letters] == [6_000]
        assert echoed(t, j) == [n for n in range(10_000) if n != 6_000]
        ranges = [(b.from_offset, b.until_offset) for e in t.ledger for b in e.batches]
        assert ranges == [(0, 6_000), (6_000, 6_001), (6_001, 10_000)]
        assert j.given == [10_000, 6_000, 1, 3_999]


async def test_without_a_record_at_hand_the_batch_is_halved() -> None:
    j = job(columns=True)
    async with j.run() as t:
        await feed(t, j.numbers, [-1 if n == 6_000 else n for n in range(10_000)])
        assert [letter.offset for letter in t.dead_letters] == [6_000]
        assert echoed(t, j) == [n for n in range(10_000) if n != 6_000]
        assert len(t.ledger) <= 16
        assert len(j.given) <= 32


async def test_a_suspect_that_does_well_alone_takes_effect() -> None:
    """The batch fails for what it holds together; no single record is to blame."""
    app = an_app()
    numbers = app.topic("numbers", value_type=int)
    echoed = app.topic("echoed", value_type=int)

    @app.batch_agent(numbers)
    async def picky(batches: Batches) -> None:
        async for batch in batches:
            for number in batch:
                await echoed.send(value=number)
                if number == 3 and len(batch) > 1:
                    raise Poisoned("not in company")

    async with app.test(partitions=1, error_policies=True) as t:
        await feed(t, numbers, range(6))
        assert [sent.value for sent in t.output(echoed)] == list(range(6))
        assert t.dead_letters == []


async def test_a_record_that_comes_alone_has_a_second_chance_too() -> None:
    tries = count()
    j = job(fails=lambda number: next(tries) == 0)
    async with j.run() as t:
        await t.send(j.numbers, 7)
        assert echoed(t, j) == [7]
        assert t.dead_letters == []


async def test_a_dead_letter_of_an_agent_says_who_why_and_where() -> None:
    j = job()
    async with j.run() as t:
        await t.send(j.numbers, -5, headers={"h": "x"})
        [letter] = t.dead_letters
        assert (letter.topic, letter.partition, letter.offset) == ("numbers", 0, 0)
        assert (letter.value, letter.headers) == (b"-5", (("h", b"x"),))
        assert letter.error == "Poisoned: no -5"
        assert letter.agent == "echo"
        assert letter.traceback is not None
        lines = letter.traceback.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert "in echo" in lines[1]
        assert lines[-1].endswith("Poisoned: no -5")


async def test_a_record_that_cannot_be_decoded_is_a_dead_letter_once() -> None:
    j = job()
    async with j.run() as t:
        await feed(t, j.numbers, [1, b"{", -1, 2])
        assert [letter.offset for letter in t.dead_letters] == [1, 2]
        assert [letter.agent for letter in t.dead_letters] == [None, "echo"]
        assert echoed(t, j) == [1, 2]


async def test_a_value_that_cannot_be_stored_costs_its_record() -> None:
    app = an_app()
    numbers = app.topic("numbers", value_type=int)
    table = app.BatchTable("table", key_type=int, value_type=int)

    @app.batch_agent(numbers)
    async def keep(batches: Batches) -> None:
        async for batch in batches:
            for number in batch:
                table[number] = number if number > 0 else object()

    async with app.test(partitions=1, error_policies=True) as t:
        await feed(t, numbers, [1, 2, -1, 3])
        assert dict(table.items()) == {1: 1, 2: 2, 3: 3}
        [letter] = t.dead_letters
        assert letter.offset == 2
        assert "cannot be stored" in letter.error


async def test_an_output_that_is_too_large_or_goes_nowhere_costs_its_record() -> None:
    app = an_app()
    sizes = app.topic("sizes", value_type=int)
    out = app.topic("out", value_type=bytes, partitions=1)

    @app.batch_agent(sizes)
    async def fill(batches: Batches) -> None:
        async for batch in batches:
            for size in batch:
                await out.send(value=b"x" * size, partition=1 if size == 13 else 0)

    async with app.test(partitions=1, error_policies=True) as t:
        await feed(t, sizes, [1, 5_000_000, 13, 2])
        assert [len(sent.value) for sent in t.output(out)] == [1, 2]
        assert [letter.offset for letter in t.dead_letters] == [1, 2]
        assert "max.message.bytes" in t.dead_letters[0].error
        assert "let its key decide" in t.dead_letters[1].error


async def test_agents_of_several_topics_fail_on_their_own_records() -> None:
    app = an_app()
    left, right = (app.topic(name, value_type=int) for name in ("left", "right"))
    seen = app.BatchTable("seen", default=int, key_type=int)

    async def take(batches: Batches) -> None:
        async for batch in batches:
            for number in batch:
                seen[number] += 1
                if number < 0:
                    raise Poisoned

    for topic in (left, right):
        app.batch_agent(topic, name=f"take_{topic.name}", topology="both", uses=[seen])(take)
    async with app.test(partitions=1, error_policies=True) as t:
        async with t.batch():
            for number in (1, -1, 2):
                await t.send(left, number)
            for number in (-2, 1, -3):
                await t.send(right, number)
        assert dict(seen.items()) == {1: 2, 2: 1}
        found = [(letter.topic, letter.offset, letter.agent) for letter in t.dead_letters]
        assert found == [
            ("left", 1, "take_left"),
            ("right", 0, "take_right"),
            ("right", 2, "take_right"),
        ]


async def test_behind_a_key_by_poison_is_skipped_and_windows_close_all_the_same() -> None:
    app = an_app()
    words = app.topic("words", value_type=str)
    by_word = app.key_by("word", aggregate=Count(), key_type=str)
    final = app.topic("final")
    counts = (
        app.BatchTable("counts", aggregate=Count(), key_type=str).tumbling(10).emit_final(final)
    )

    @app.batch_agent(words)
    async def split(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                by_word.add(word)

    @app.batch_agent(by_word)
    async def add_up(batches: Batches) -> None:
        async for batch in batches:
            for word, number in batch.items():
                counts[word] += number
                if word == "poison":
                    raise Poisoned

    async with app.test(partitions=1, error_policies=True) as t:
        await feed(t, words, ["a", "poison", "b", "a"])
        await t.advance(120)
        assert {(s.value["key"], s.value["value"]) for s in t.output(final)} == {("a", 2), ("b", 1)}
        [letter] = t.dead_letters
        assert (letter.topic, letter.key) == (by_word.name, b"poison")


# ---------------------------------------------------------------------- the other directives


async def test_retry_processes_the_same_batch_again() -> None:
    tries = count()
    j = job(fails=lambda number: number == 2 and next(tries) < 3, error=ConnectionError)
    async with j.run() as t:
        await feed(t, j.numbers, [1, 2, 3])
        assert echoed(t, j) == [1, 2, 3]
        assert j.given == [3, 3, 3, 3]
        assert len(t.ledger) == 1


async def test_each_batch_has_all_its_attempts() -> None:
    tries = count()
    j = job(ErrorPolicy(attempts=3), fails=lambda _: next(tries) % 3 < 2, error=ConnectionError)
    async with j.run() as t:
        t.cut_every(1)
        await feed(t, j.numbers, [1, 2, 3])
        assert echoed(t, j) == [1, 2, 3]


async def test_after_its_attempts_it_escalates_and_says_where() -> None:
    j = job(ErrorPolicy(attempts=4), error=ConnectionError)
    async with j.run() as t:
        with pytest.raises(AgentFailed) as raised:
            await feed(t, j.numbers, [1, -2])
        assert j.given == [2, 2, 2, 2]
        assert (echoed(t, j), t.dead_letters) == ([], [])
    assert str(raised.value) == (
        "echo/0 failed in the batch agent echo in numbers:0:0-2 at offset 1 of numbers "
        "(ConnectionError: no -2), 4 times: nothing of it was committed; mend the agent and start "
        "the worker again"
    )
    assert isinstance(raised.value.__cause__, ConnectionError)


async def test_after_its_attempts_it_may_skip_the_record() -> None:
    j = job(ErrorPolicy(attempts=2, then=OnError.SKIP_RECORD), error=ConnectionError)
    async with j.run() as t:
        await feed(t, j.numbers, [1, -2, 3])
        assert echoed(t, j) == [1, 3]
        assert [letter.offset for letter in t.dead_letters] == [1]


async def test_skip_batch_sends_all_its_records_to_the_dead_letters() -> None:
    j = job({Poisoned: OnError.SKIP_BATCH})
    async with j.run() as t:
        t.cut_every(2)
        await feed(t, j.numbers, [1, 2, 3, -1, 4, 5])
        assert echoed(t, j) == [1, 2, 4, 5]
        assert [letter.offset for letter in t.dead_letters] == [2, 3]
        assert {letter.error for letter in t.dead_letters} == {"Poisoned: no -1"}
        check_ranges_meet(t, 6)


async def test_restart_opens_the_task_anew() -> None:
    app = an_app()
    numbers = app.topic("numbers", value_type=int)
    totals = app.BatchTable("totals", default=int, key_type=int)
    starts: list[int] = []

    @app.batch_agent(numbers, errors={Poisoned: OnError.RESTART})
    async def fragile(batches: Batches) -> None:
        starts.append(1)
        async for batch in batches:
            for number in batch:
                totals[number] += 1
                if number == 2 and len(starts) < 3:
                    raise Poisoned

    async with app.test(partitions=1, error_policies=True) as t:
        await t.send(numbers, 1)
        await t.send(numbers, 2)
        assert dict(totals.items()) == {1: 1, 2: 1}
        assert len(starts) == 3


async def test_restarts_are_bounded() -> None:
    j = job(ErrorPolicy({Poisoned: OnError.RESTART}, restarts=Budget(3, 60.0)))
    async with j.run() as t:
        with pytest.raises(AgentFailed, match=r"after 3 restarts within 60 s: nothing of it"):
            await t.send(j.numbers, -1)
        assert len(j.given) == 4


async def test_stop_stops_its_task_and_the_others_go_on() -> None:
    j = job({Poisoned: OnError.STOP})
    async with j.app.test(partitions=2, error_policies=True) as t:
        await t.send(j.numbers, -1, partition=0)
        await t.send(j.numbers, 1, partition=0)
        await t.send(j.numbers, 2, partition=1)
        assert echoed(t, j) == [2]
        assert t.dead_letters == []


async def test_escalate_ends_the_worker_at_once() -> None:
    j = job({Poisoned: OnError.ESCALATE})
    async with j.run() as t:
        with pytest.raises(AgentFailed, match=r"echo in numbers:0:0-2 at offset 1 of numbers"):
            await feed(t, j.numbers, [1, -1])
        assert len(j.given) == 1


async def test_without_policies_a_test_sees_what_the_agent_raises() -> None:
    j = job()
    async with j.app.test(partitions=1) as t:
        with pytest.raises(Poisoned):
            await t.send(j.numbers, -1)
        assert t.dead_letters == []


# ---------------------------------------------------------------------- what no record is to blame for


async def test_a_bug_that_fails_for_every_record_does_not_empty_the_topic() -> None:
    j = job(ErrorPolicy(skips=Budget(5, 60.0)), fails=lambda number: True)
    async with j.run() as t:
        with pytest.raises(AgentFailed, match=r"after 5 skips within 60 s"):
            await feed(t, j.numbers, range(1_000))
        assert [letter.offset for letter in t.dead_letters] == [0, 1, 2, 3, 4]


async def test_the_budget_is_that_of_a_time() -> None:
    j = job(ErrorPolicy(skips=Budget(2, 60.0)))
    async with j.run() as t:
        for _ in range(4):
            await feed(t, j.numbers, [1, -1])
            await t.advance(40)
        assert len(t.dead_letters) == 4


async def test_no_record_is_to_blame_for_what_fails_when_a_window_closes() -> None:
    app = an_app()
    words = app.topic("words", value_type=str, event_time=lambda word: int(word[1:]) * 1000)
    counts = app.BatchTable("counts", aggregate=Count(), key_type=str).tumbling(10)
    tries = count()

    @app.batch_agent(words)
    async def add_up(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    @counts.on_close
    def tell(window: Any, values: Any) -> None:
        if next(tries) < 3:
            raise Poisoned("in the window")

    async with app.test(partitions=1, error_policies=True) as t:
        await feed(t, words, ["a1", "b2"])
        await feed(t, words, ["c25", "d26"])
        assert t.dead_letters == []
        assert next(tries) == 4
        assert len(t.ledger) == 2


# ---------------------------------------------------------------------- the other guarantees


async def test_at_least_once_sends_the_good_ones_once() -> None:
    j = job()
    async with j.run(processing_guarantee="at_least_once") as t:
        await feed(t, j.numbers, [1, -1, 2])
        assert echoed(t, j) == [1, 2]
        assert [letter.offset for letter in t.dead_letters] == [1]


@pytest.mark.parametrize(
    ("errors", "letters"),
    [
        pytest.param(None, [2], id="the record at hand is kept"),
        pytest.param({Poisoned: OnError.SKIP_BATCH}, [0, 1, 2, 3], id="the batch is kept"),
        pytest.param({Poisoned: OnError.RETRY}, [], id="nothing is tried again"),
    ],
)
async def test_at_most_once_runs_nothing_again(errors: Any, letters: list[int]) -> None:
    j = job(errors)
    async with j.run(processing_guarantee="at_most_once") as t:
        await feed(t, j.numbers, [1, 2, -1, 3])
        await feed(t, j.numbers, [4])
        assert j.given == [4, 1]
        assert echoed(t, j) == [4]
        assert [letter.offset for letter in t.dead_letters] == letters
        assert t.ledger[-1].batches[-1].until_offset == 5


async def test_at_most_once_a_service_that_is_down_costs_so_many_batches_and_ends_the_worker() -> (
    None
):
    j = job(ErrorPolicy(attempts=4), error=ConnectionError)
    async with j.run(processing_guarantee="at_most_once") as t:
        with pytest.raises(AgentFailed) as raised:
            for _ in range(20):
                await t.send(j.numbers, -1)
        assert len(j.given) == 4
    assert (
        "in numbers:0:3-4 at offset 3 of numbers (ConnectionError: no -1), 4 batches in a row: "
        in (message := str(raised.value))
    )
    assert "at most once, so 1 records are lost" in message


async def test_at_most_once_a_batch_that_does_well_gives_the_next_all_attempts() -> None:
    j = job(ErrorPolicy(attempts=3), error=ConnectionError)
    async with j.run(processing_guarantee="at_most_once") as t:
        for number in (-1, -1, 1, -1, -1, 2):
            await t.send(j.numbers, number)
        assert echoed(t, j) == [1, 2]


async def test_at_most_once_may_keep_the_record_after_so_many_batches() -> None:
    j = job(ErrorPolicy(attempts=3, then=OnError.SKIP_RECORD), error=ConnectionError)
    async with j.run(processing_guarantee="at_most_once") as t:
        for _ in range(4):
            await t.send(j.numbers, -1)
        assert [letter.offset for letter in t.dead_letters] == [2]


async def test_at_most_once_windows_that_cannot_be_closed_end_the_worker() -> None:
    app = an_app()
    words = app.topic("words", value_type=str, event_time=lambda word: int(word[1:]) * 1000)
    counts = app.BatchTable("counts", aggregate=Count(), key_type=str).tumbling(10)

    @app.batch_agent(words, errors=ErrorPolicy(attempts=3))
    async def add_up(batches: Batches) -> None:
        async for batch in batches:
            for word in batch:
                counts[word] += 1

    @counts.on_close
    def tell(window: Any, values: Any) -> None:
        raise Poisoned("in the window")

    async with app.test(
        partitions=1, error_policies=True, processing_guarantee="at_most_once"
    ) as t:
        await feed(t, words, ["a1", "b2"])
        with pytest.raises(AgentFailed, match="3 batches in a row: at most once"):
            for second in range(25, 40):
                await t.send(words, f"c{second}")


def handling(policy: ErrorPolicy) -> tuple[ErrorHandling, Part]:
    """What becomes of a part of three records, at most once; pauses are as long as they can be."""
    settings = EngineSettings(guarantee=Guarantee.AT_MOST_ONCE, errors=policy)
    [topology] = job().app.topologies()
    records = [Record(offset=offset) for offset in range(3)]
    part = Part([Slice("numbers", 0, 3, records)])
    return ErrorHandling(topology, 0, settings, lambda: 0.0, lambda: 0.0), part


def test_at_most_once_pauses_grow_from_batch_to_batch() -> None:
    errors, part = handling(ErrorPolicy(attempts=5, backoff=Backoff(0.1, 0.3)))
    lost = [errors.failed(part, Fault(ConnectionError("down"))) for _ in range(4)]
    assert lost == [([], 0.1), ([], 0.2), ([], 0.3), ([], 0.3)]


def test_at_most_once_a_restart_says_what_is_lost() -> None:
    errors, part = handling(ErrorPolicy({Poisoned: OnError.RESTART}))
    with pytest.raises(TaskClosed, match=r"numbers:0:0-3 .*: at most once, so 3 records are lost"):
        errors.failed(part, Fault(Poisoned()))


# ---------------------------------------------------------------------- what is said of it


async def test_a_line_a_batch_says_that_the_culprit_is_looked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    j = job()
    with caplog.at_level(logging.WARNING, "streamapp.engine.error_handling"):
        async with j.run() as t:
            await feed(t, j.numbers, [1, -1, 2, -2, 3])
    [line] = [record.getMessage() for record in caplog.records]
    assert "numbers:0:0-5 at offset 1 of numbers (Poisoned: no -1)" in line
    assert "is looked for" in line
