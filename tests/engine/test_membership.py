"""Membership: who is asked, when, and what an old answer is worth."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamapp.engine import membership, seams
from streamapp.engine.membership import Membership


class Clock:
    """Seconds that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(membership.time, "monotonic", lambda: self.now)


class Coordinator:
    """Answers heartbeats when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[asyncio.Future[bool]] = []
        self.generation = 1
        monkeypatch.setattr(seams, "heartbeat", self._heartbeat)
        monkeypatch.setattr(seams, "generation", lambda consumer: self.generation)
        monkeypatch.setattr(seams, "member_id", lambda consumer: "me")

    async def _heartbeat(self, consumer: Any, generation: int) -> bool:
        del consumer, generation
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    return Coordinator(monkeypatch)


def member() -> tuple[Membership, list[str]]:
    """A member with an assignment, and what it has dropped."""
    dropped: list[str] = []

    async def drop() -> None:
        dropped.append("output")

    found = Membership("group", 10.0, None, drop)
    found.joins(object())  # type: ignore[arg-type]
    found.assigned()
    return found, dropped


async def turns() -> None:
    """Let whatever can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_while_it_is_at_work_nobody_is_asked(clock: Clock, coordinator: Coordinator) -> None:
    place, _ = member()
    clock.now += 4.9
    assert await place.still_here(place.epoch)
    assert await place.may_send()
    assert coordinator.asked == []


async def test_after_a_stall_the_group_says_whether_output_may_leave(
    clock: Clock, coordinator: Coordinator
) -> None:
    place, dropped = member()
    clock.now += 5.1
    asking = asyncio.create_task(place.still_here(place.epoch))
    await turns()
    coordinator.asked[0].set_result(True)
    assert await asking
    assert await place.may_send()
    assert (len(coordinator.asked), dropped) == (1, [])


async def test_without_the_groups_word_what_was_on_its_way_is_dropped(
    clock: Clock, coordinator: Coordinator
) -> None:
    place, dropped = member()
    clock.now += 5.1
    asking = asyncio.create_task(place.may_send())
    await turns()
    coordinator.asked[0].set_result(False)
    assert not await asking
    await place.close()
    assert dropped == ["output"]


async def test_an_answer_to_what_was_asked_before_a_stall_is_worth_nothing(
    clock: Clock, coordinator: Coordinator
) -> None:
    place, _ = member()
    before = asyncio.create_task(place.confirmed(place.epoch))
    await turns()
    clock.now += 60
    after = asyncio.create_task(place.still_here(place.epoch))
    await turns()
    coordinator.asked[0].set_result(True)
    await turns()
    coordinator.asked[1].set_result(False)
    assert (await before, await after) == (False, False)


async def test_a_request_is_shared_by_all_who_ask_at_once(
    clock: Clock, coordinator: Coordinator
) -> None:
    place, _ = member()
    asking = [asyncio.create_task(place.confirmed(place.epoch)) for _ in range(9)]
    await turns()
    coordinator.asked[0].set_result(True)
    assert all(await asyncio.gather(*asking))
    assert len(coordinator.asked) == 1


def test_a_member_that_missed_a_generation_is_told(clock: Clock, coordinator: Coordinator) -> None:
    place, _ = member()
    coordinator.generation = 2
    assert place.assigned()
    coordinator.generation = 4
    assert not place.assigned()
