"""Trimming while tasks come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from aiokafka import TopicPartition

from streamapp import App
from streamapp.engine.group import Group
from streamapp.engine.trim import Trimmer
from tests.engine.tasks import an_app


class Reader:
    """What trimming looks at of a group: two tasks, one of which goes when somebody asks of it."""

    def __init__(self, app: App) -> None:
        source = app.key_by("words")
        self.topology = SimpleNamespace(sources=[source])
        self.runners: dict[int, Any] = {
            0: SimpleNamespace(task=None),
            1: SimpleNamespace(task=None),
        }
        self.consumer = self

    async def committed(self, tp: TopicPartition) -> int | None:
        self.runners.pop(1, None)
        return None


async def test_a_task_that_goes_during_a_round_does_no_harm() -> None:
    reader = Reader(an_app())
    await Trimmer([cast(Group, reader)], {}, 1.0).trim()
    assert list(reader.runners) == [0]
