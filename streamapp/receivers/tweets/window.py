"""Which tweets the topic has already: the ids that could come once more."""

import asyncio

from aiokafka import AIOKafkaConsumer

from streamapp.receivers.connection import Bootstrap, client_options
from streamapp.receivers.tweets.ids import time_of

__all__ = ["Published", "read_published"]

_CLOCK_ERROR_MS = 120_000
_READ_TIMEOUT = 120.0


class Published:
    """Ids of published tweets, from `floor` on; what is below is not known any more."""

    def __init__(self, floor: int, ids: set[int]) -> None:
        self.floor = floor
        self._ids = ids
        self._pruned = floor

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, tweet: int) -> bool:
        """Remember a tweet; whether it is new."""
        if tweet in self._ids:
            return False
        self._ids.add(tweet)
        return True

    def raise_floor(self, floor: int) -> None:
        """Nothing below `floor` will be asked for; memory is given back now and then."""
        self.floor = max(self.floor, floor)
        if time_of(self.floor) - time_of(self._pruned) > 30_000:
            self._ids = {tweet for tweet in self._ids if tweet >= self.floor}
            self._pruned = self.floor


async def read_published(bootstrap: Bootstrap, topic: str, floor: int) -> Published:
    """What `topic` has of tweets with ids from `floor` on: their keys, read committed.

    A record is never older than its tweet, but for what the clocks differ. The caller has fenced
    whoever published before, so that nothing is undecided below the end.

    Raises:
        TimeoutError: the topic could not be read to its end.
        aiokafka.errors.KafkaError: the broker failed.
    """
    ids: set[int] = set()
    # Without a group it is assigned every partition.
    consumer = AIOKafkaConsumer(
        topic,
        **client_options(bootstrap),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    try:
        async with asyncio.timeout(_READ_TIMEOUT):
            await consumer.start()
            every = sorted(consumer.assignment())
            if not every:
                raise TimeoutError(f"the partitions of {topic} are not known")
            ends = await consumer.end_offsets(every)
            moment = time_of(floor) - _CLOCK_ERROR_MS
            begins = await consumer.offsets_for_times(dict.fromkeys(every, moment))
            for tp in every:
                found = begins[tp]
                consumer.seek(tp, ends[tp] if found is None else found.offset)
            unread = set(every)
            while unread:
                for records in (await consumer.getmany(*unread, timeout_ms=50)).values():
                    for record in records:
                        key = record.key or b""
                        if key.isdigit() and int(key) >= floor:
                            ids.add(int(key))
                unread = {tp for tp in unread if await consumer.position(tp) < ends[tp]}
    finally:
        await consumer.stop()
    return Published(floor, ids)
