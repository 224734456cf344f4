"""A process that copies a topic, exactly once, and can be told to die in mid-transaction.

    python -m tests.conformance.transformer BOOTSTRAP SOURCE SINK NAME UNTIL [STAGE NUMBER]

It takes over from whoever ran under NAME before, copies until the source offset UNTIL is
committed, and ends. With a STAGE, it is killed in its transaction of that NUMBER.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition

STAGES = ("begun", "sent", "offsets sent", "committing", "committed")
RECORDS_A_TRANSACTION = 5


@dataclass(frozen=True, slots=True)
class Death:
    """Where a transformer ends, as `kill -9` would end it; never, with an empty stage."""

    stage: str = ""
    number: int = 0

    def reached(self, stage: str, number: int) -> None:
        """Die if this is the place."""
        if (stage, number) == (self.stage, self.number):
            os.kill(os.getpid(), signal.SIGKILL)


async def transform(
    bootstrap: str, source: str, sink: str, name: str, until: int, death: Death
) -> None:
    """Copy from the committed offset to `until`, a few records a transaction."""
    tp = TopicPartition(source, 0)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=name,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    # First of all the producer: its start ends what the one before has left open.
    await producer.start()
    await consumer.start()
    consumer.assign([tp])
    number = 0
    while (position := await consumer.position(tp)) < until:
        batch = await consumer.getmany(tp, timeout_ms=100, max_records=RECORDS_A_TRANSACTION)
        if not (records := batch.get(tp)):
            continue
        number += 1
        await producer.begin_transaction()
        death.reached("begun", number)
        for delivery in [await producer.send(sink, record.value) for record in records]:
            await delivery
        death.reached("sent", number)
        position = records[-1].offset + 1
        await producer.send_offsets_to_transaction({tp: OffsetAndMetadata(position, "")}, name)
        death.reached("offsets sent", number)
        commit = asyncio.ensure_future(producer.commit_transaction())
        if death.stage == "committing":
            # Long enough for the request to leave, and not for the answer to be awaited.
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        death.reached("committing", number)
        await commit
        death.reached("committed", number)
    await consumer.stop()
    await producer.stop()


def main() -> None:
    bootstrap, source, sink, name, until, *rest = sys.argv[1:]
    death = Death(rest[0], int(rest[1])) if rest else Death()
    asyncio.run(transform(bootstrap, source, sink, name, int(until), death))


if __name__ == "__main__":
    main()
