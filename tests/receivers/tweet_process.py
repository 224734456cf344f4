"""A receiver of tweets as a process of its own, on the clock of whoever has started it.

Run as `python -m tests.receivers.tweet_process SETTINGS`, with the settings as JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from streamapp.receivers.tweets import Api, TweetReceiver
from tests.receivers.tweets import real_time_for_kafka, token
from tests.x_api import FastLoop, LoopClock


async def receive(settings: dict[str, Any]) -> None:
    receiver = TweetReceiver(
        settings["topic"],
        token(),
        api=Api(settings["host"], Path(settings["authority"])),
        bootstrap=settings["bootstrap"],
        clock=LoopClock(settings["start"], zero=settings["origin"]),
        log=Path(settings["log"]) if "log" in settings else None,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, receiver.stop)
    await receiver.run()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with pytest.MonkeyPatch.context() as patch:
        real_time_for_kafka(patch)
        loop_of = lambda: FastLoop(given["factor"], given["origin"])  # noqa: E731
        with asyncio.Runner(loop_factory=loop_of) as runner:
            runner.run(receive(given))
