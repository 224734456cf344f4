"""`python -m streamapp.demo.stack SAMPLES`: what the compose stack needs before anything runs.

It makes the source topics of the application, with a copy on each of up to three brokers, and
writes the samples that are published where no real source is given. What is there is left as it is,
so it may run at every start.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from streamapp.demo.samples import write_sample_log, write_sample_tweets
from streamapp.receivers.positions import COMPACTED
from streamapp.receivers.topics import TopicSpec, ensure_topics, positions_of

__all__ = ["prepare"]

_SOURCES: Final = ("log-lines", "text-lines", "tweets")
_PARTITIONS: Final = 4


async def prepare(bootstrap: str, samples: Path) -> None:
    """Make the topics at `bootstrap`, and write the samples into a directory.

    Raises:
        BrokerUnavailable: nothing answers there.
    """
    sources = [TopicSpec(topic, _PARTITIONS) for topic in _SOURCES]
    positions = [TopicSpec(positions_of(topic), configs=COMPACTED) for topic in _SOURCES]
    await ensure_topics(bootstrap, *sources, *positions)
    write_sample_log(samples / "error.log")
    write_sample_tweets(samples / "tweets.jsonl")


if __name__ == "__main__":
    asyncio.run(prepare(os.environ["STREAMAPP_BOOTSTRAP"], Path(sys.argv[1])))
