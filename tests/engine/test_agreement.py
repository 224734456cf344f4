"""The group's offsets beside the marker's: what may differ, and what stops the worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamapp.engine.agreement import OffsetsDisagree, check_agreement
from tests.brokers import BrokerUnderTest
from tests.engine.running import run_once
from tests.engine.test_engine import publish
from tests.engine.test_recovery import counting, table_of

TOPIC = TopicPartition("orders", 0)


class Committed:
    """A group that answers what it is told to, the last answer for ever."""

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, tp: TopicPartition) -> int | None:
        assert tp == TOPIC
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def check(committed: Committed) -> None:
    await check_agreement(committed, {"orders": 120}, 0, "count", "shop-count", "marks", (0, 0, 0))


@pytest.mark.parametrize("answer", [120, None])
async def test_the_same_offset_and_none_at_all_agree(answer: int | None) -> None:
    committed = Committed(answer)
    await check(committed)
    assert committed.asked == 1


async def test_an_answer_that_is_late_for_a_moment_is_asked_for_again() -> None:
    await check(Committed(100, 100, 120))


@pytest.mark.parametrize("theirs", [0, 119, 121])
async def test_another_offset_is_named_with_the_ways_out(theirs: int) -> None:
    with pytest.raises(OffsetsDisagree) as raised:
        await check(Committed(theirs))
    message = str(raised.value)
    assert f"orders[0] is at 120 in the checkpoint and at {theirs} in the group" in message
    assert "streamapp reset count --to-checkpoint" in message
    assert message.endswith("streamapp reset count")


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_most_once"])
@pytest.mark.parametrize("offset", [0, 45, 70])
async def test_a_worker_stops_when_somebody_has_reset_its_group(
    kafka: BrokerUnderTest, tmp_path: Path, guarantee: str, offset: int
) -> None:
    await kafka.create_topic("in", partitions=1)
    await publish(kafka, "in", [b"a", b"b", b"a"] * 20)
    app = counting(kafka, tmp_path, processing_guarantee=guarantee)
    await run_once(app)
    before = await table_of(kafka, app)
    await reset(kafka, f"{app.conf.id}-count", offset)

    await publish(kafka, "in", [b"a"] * 20)
    with pytest.raises(
        OffsetsDisagree, match=rf"in\[0\] is at 60 in the checkpoint and at {offset} in the group"
    ):
        await run_once(counting(kafka, tmp_path, processing_guarantee=guarantee))
    assert await table_of(kafka, app) == before

    # What the message says: the group is put where the checkpoint is.
    await reset(kafka, f"{app.conf.id}-count", 60)
    await run_once(counting(kafka, tmp_path, processing_guarantee=guarantee))
    assert await table_of(kafka, app) == {b"a": b"60", b"b": b"20"}


async def reset(kafka: BrokerUnderTest, group: str, offset: int) -> None:
    """Commit an offset in a group's name, as Kafka's tools do while no member is there."""
    source = TopicPartition(kafka.topic("in"), 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([source])
        await consumer.commit({source: offset})
