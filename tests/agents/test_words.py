"""The word count, against counting words."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from agents.words import count_words, split_lines
from streamapp import app
from streamapp.testing import AppTest
from streamapp.topics import text_lines, word_totals
from tables.words import word_counts, words

WORDS = ["The", "the", "quick", "Brown", "fox", "jumps", "über", "lazy", "dog", "naïve"]


@pytest.fixture
async def t() -> AsyncIterator[AppTest]:
    async with app.test(agents=[split_lines, count_words]) as t:
        yield t


async def test_words_are_counted_whatever_their_case(t: AppTest) -> None:
    await t.send(text_lines, "To be, or not to be,")
    assert dict(word_counts.items()) == {"to": 2, "be,": 2, "or": 1, "not": 1}


async def test_an_empty_line_has_no_words(t: AppTest) -> None:
    await t.send(text_lines, "  ")
    assert t.output(words) == []
    assert len(word_counts) == 0


async def test_a_word_is_counted_by_one_owner_wherever_its_lines_are(t: AppTest) -> None:
    for partition in range(4):
        await t.send(text_lines, "fox", partition=partition)
    assert word_counts["fox"] == 4
    assert [(r.key, r.value) for r in t.output(word_totals)] == [("fox", n) for n in range(1, 5)]


async def test_a_batch_of_lines_sends_each_word_once(t: AppTest) -> None:
    async with t.batch():
        for _ in range(50):
            await t.send(text_lines, "fox dog fox", partition=0)
    assert sorted((r.key, r.value) for r in t.output(words)) == [("dog", 50), ("fox", 100)]
    assert sorted((r.key, r.value) for r in t.output(word_totals)) == [("dog", 50), ("fox", 100)]


async def test_a_line_that_is_no_text_is_a_dead_letter(t: AppTest) -> None:
    async with t.batch():
        await t.send(text_lines, "fox", partition=1)
        await t.send(text_lines, b"\xff\xfe", partition=1)
        await t.send(text_lines, "fox", partition=1)
    assert word_counts["fox"] == 2
    (letter,) = t.dead_letters
    assert (letter.topic, letter.partition, letter.offset) == ("text-lines", 1, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_any_lines_in_any_cuts_with_restarts_and_crashes_are_counted_once(
    t: AppTest, seed: int
) -> None:
    chance = random.Random(seed)
    expected: Counter[str] = Counter()
    t.cut_every(7)
    for _ in range(25):
        match chance.randrange(6):
            case 0:
                await t.restart(keep_stores=chance.random() < 0.5)
            case 1:
                t.crash(chance.choice(["before-commit", "after-commit"]))
        async with t.batch():
            for _ in range(chance.randrange(1, 20)):
                line = " ".join(chance.choices(WORDS, k=chance.randrange(0, 8)))
                expected.update(line.lower().split())
                await t.send(text_lines, line)
    assert dict(word_counts.items()) == expected
    assert t.changelog(word_counts) == expected
    last = {record.key: record.value for record in t.output(word_totals)}
    assert last == expected
    rising = [r.value for r in t.output(word_totals) if r.key == "fox"]
    assert rising == sorted(set(rising)), "each total is published once"
