"""Consume, transform, produce: every input has its output once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import random
import signal
import sys

import pytest
from aiokafka import OffsetAndMetadata, TopicPartition

from tests.brokers import BrokerUnderTest
from tests.conformance.clients import (
    all_stable,
    committed_offset,
    consumer,
    end_offset,
    producer,
    values,
    write,
)
from tests.conformance.transformer import STAGES
from tests.polling import eventually

INPUT = [b"%d" % number for number in range(40)]


async def test_aborted_attempts_leave_no_trace(kafka: BrokerUnderTest) -> None:
    source, sink = await kafka.create_topic("source"), await kafka.create_topic("sink")
    tp = TopicPartition(source, 0)
    name = f"{kafka.prefix}copy"
    chance = random.Random(7)
    await write(kafka, source, INPUT)

    async with (
        producer(kafka, transactional_id=name) as output,
        consumer(kafka, group_id=name) as input_,
    ):
        input_.assign([tp])
        done = 0
        while done < len(INPUT):
            input_.seek(tp, done)
            records = (await input_.getmany(tp, timeout_ms=1000, max_records=3)).get(tp, [])
            if not records:
                continue
            await output.begin_transaction()
            for record in records:
                await output.send_and_wait(sink, record.value)
            until = records[-1].offset + 1
            await output.send_offsets_to_transaction({tp: OffsetAndMetadata(until, "")}, name)
            if chance.random() < 0.4:
                await output.abort_transaction()
            else:
                await output.commit_transaction()
                done = until

    await all_stable(kafka, sink)
    assert await values(kafka, sink) == INPUT
    assert await eventually(lambda: committed_offset(kafka, name, source)) == len(INPUT)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_process_killed_in_mid_transaction_is_taken_over(
    kafka: BrokerUnderTest, stage: str
) -> None:
    source, sink = await kafka.create_topic("source"), await kafka.create_topic("sink")
    name = f"{kafka.prefix}copy"
    await write(kafka, source, INPUT)

    assert await transformer(kafka, source, sink, name, stage, 3) == -signal.SIGKILL
    assert await transformer(kafka, source, sink, name) == 0

    await all_stable(kafka, sink)
    assert await values(kafka, sink) == INPUT


@pytest.mark.slow
async def test_a_process_killed_again_and_again_gets_there(kafka: BrokerUnderTest) -> None:
    source, sink = await kafka.create_topic("source"), await kafka.create_topic("sink")
    name = f"{kafka.prefix}copy"
    await write(kafka, source, INPUT)

    chance = random.Random(11)
    while (
        await transformer(kafka, source, sink, name, chance.choice(STAGES), chance.randint(1, 2))
        != 0
    ):
        pass

    await all_stable(kafka, sink)
    assert await values(kafka, sink) == INPUT


async def test_two_processes_of_one_name_do_the_work_once(kafka: BrokerUnderTest) -> None:
    """The one that starts last fences the other, which then fails and has written nothing."""
    source, sink = await kafka.create_topic("source"), await kafka.create_topic("sink")
    name = f"{kafka.prefix}copy"
    await write(kafka, source, INPUT)

    endings = await asyncio.gather(
        *(transformer(kafka, source, sink, name) for _ in range(2)), return_exceptions=True
    )
    if 0 not in endings:
        assert await transformer(kafka, source, sink, name) == 0

    await all_stable(kafka, sink)
    assert await values(kafka, sink) == INPUT


async def transformer(
    kafka: BrokerUnderTest, source: str, sink: str, name: str, stage: str = "", number: int = 0
) -> int:
    """Run a transformer to its end, and return its exit status."""
    until = await end_offset(kafka, source, "read_committed")
    arguments = [kafka.bootstrap, source, sink, name, str(until)]
    arguments += [stage, str(number)] if stage else []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.conformance.transformer", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    await process.communicate()
    assert process.returncode is not None
    return process.returncode
