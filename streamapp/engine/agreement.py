"""Whether the group agrees with the marker: the one says what Kafka's tools see, the other what is true.

Both are written by one transaction, so they are the same unless somebody has written one of them by
hand. Going on would then process records twice or leave some out, in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from aiokafka import TopicPartition

from streamapp.errors import StreamappError

__all__ = ["OffsetsDisagree", "check_agreement", "check_beginning"]

#: Pauses between the looks at the group's offsets, in seconds: what a transaction has committed
#: reaches them a moment later, and OffsetFetch v3 has no way to wait for it (KIP-447).
_PAUSES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class OffsetsDisagree(StreamappError):
    """The group's committed offsets are not those of the last checkpoint."""


async def check_agreement(
    committed: Callable[[TopicPartition], Awaitable[int | None]],
    sources: Mapping[str, int],
    partition: int,
    topology: str,
    group: str,
    checkpoint_topic: str,
    pauses: Sequence[float] = _PAUSES,
) -> None:
    """Compare the offsets of a marker with those of the group; a group that knows none agrees.

    Arguments:
        committed: asks the group for its offset, `None` for none (never committed, or expired).
        sources: the marker's offsets, by topic.

    Raises:
        OffsetsDisagree: they differ, and go on to; the message says what can be done.
    """
    for pause in (*pauses, None):
        differing = [
            (topic, ours, theirs)
            for topic, ours in sources.items()
            if (theirs := await committed(TopicPartition(topic, partition))) not in (None, ours)
        ]
        if not differing:
            return
        if pause is not None:
            await asyncio.sleep(pause)
    shown = ", ".join(
        f"{topic}[{partition}] is at {ours} in the checkpoint and at {theirs} in the group"
        for topic, ours, theirs in differing
    )
    raise OffsetsDisagree(
        f"the task {topology}/{partition} and its group {group} disagree: {shown}. Somebody has reset the group's "
        f"offsets, or restored the topic {checkpoint_topic} from elsewhere. Nothing was processed. Go on from the "
        f"checkpoint, as if nothing had happened to the group: streamapp reset {topology} --to-checkpoint; or begin "
        f"anew, without the state: streamapp reset {topology}"
    )


async def check_beginning(
    committed: Callable[[TopicPartition], Awaitable[int | None]],
    sources: Iterable[str],
    partition: int,
    topology: str,
    group: str,
    checkpoint_topic: str,
) -> None:
    """See that the group of a task without a marker has not begun: it keeps state, and that would be lost.

    Raises:
        OffsetsDisagree: it has; the message says what can be done.
    """
    for topic in sources:
        offset = await committed(TopicPartition(topic, partition))
        if offset is not None:
            raise OffsetsDisagree(
                f"the group {group} is at {offset} in {topic}[{partition}], and the task {topology}/{partition} has no "
                f"checkpoint in {checkpoint_topic}: the topic was deleted and made anew, with the state that belongs to "
                "it perhaps, or somebody has set the group's offsets. Nothing was processed. Restore the topics, or "
                f"begin anew, without the state: streamapp reset {topology} (with --to where it is to begin)"
            )
