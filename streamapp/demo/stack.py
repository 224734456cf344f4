"""`python -m streamapp.demo.stack …`: what the compose file cannot say by itself.

`prepare` makes the source topics of the application, with a copy on each of up to three brokers. What
is there is left as it is, so that it may run at every start. `tweets` becomes the ingester of tweets:
of X's filtered stream where the environment has a token, of generated ones elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from streamapp.receivers.positions import COMPACTED
from streamapp.receivers.topics import TopicSpec, ensure_topics, positions_of
from streamapp.receivers.tweets.api import TOKEN_VARIABLE

__all__ = ["ingester", "prepare"]

_SOURCES: Final = ("log-lines", "text-lines", "tweets")
_PARTITIONS: Final = 4
_KEPT: Final = {"retention.ms": str(24 * 3600 * 1000)}
"""Generated for days on end, records would fill the disk."""


async def prepare(bootstrap: str) -> None:
    """Make the topics.

    Raises:
        BrokerUnavailable: nothing answers at `bootstrap`.
    """
    sources = [TopicSpec(topic, _PARTITIONS, configs=_KEPT) for topic in _SOURCES]
    positions = [TopicSpec(positions_of(topic), configs=COMPACTED) for topic in _SOURCES]
    await ensure_topics(bootstrap, *sources, *positions)


def ingester(bootstrap: str, rule: str, rate: str, environment: Mapping[str, str]) -> list[str]:
    """The arguments of `streamapp` that ingest tweets; the token stays in the environment."""
    source = (
        ["tweets", f"--rule={rule}"]
        if environment.get(TOKEN_VARIABLE)
        else ["sample", "tweets", f"--rate={rate}"]
    )
    return ["ingest", *source, "--topic=tweets", f"--bootstrap={bootstrap}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for, or become it."""
    parser = argparse.ArgumentParser(prog="python -m streamapp.demo.stack")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("prepare", "tweets"):
        commands.add_parser(command).add_argument("--bootstrap", required=True)
    tweets = commands.choices["tweets"]
    tweets.add_argument("--rule", required=True)
    tweets.add_argument("--rate", required=True)
    asked = parser.parse_args(arguments)
    if asked.command == "prepare":
        asyncio.run(prepare(asked.bootstrap))
        return
    words = ingester(asked.bootstrap, asked.rule, asked.rate, os.environ)
    # In place of this process: signals, exit code and health are the ingester's own.
    os.execv(sys.executable, [sys.executable, "-m", "streamapp", *words])


if __name__ == "__main__":
    main()
