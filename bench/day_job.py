"""The worker of `bench.day`: events counted by user, for ever and in windows of a minute."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamapp import App, Batches, Count

__all__ = ["DAY", "Event", "Names"]

DAY = 24 * 3600 * 1000


class Event(msgspec.Struct):
    """Who, and when in milliseconds."""

    user: str
    time: int


@dataclass(frozen=True, slots=True)
class Names:
    """What a run calls its topics: nothing of an earlier one is in the way."""

    run: str

    @property
    def events(self) -> str:
        return f"{self.run}-events"

    @property
    def windows(self) -> str:
        return f"{self.run}-windows"

    @property
    def group(self) -> str:
        return f"{self.run}-count"

    def environment(self, bootstrap: str, state: Path) -> dict[str, str]:
        """What the worker has to be told."""
        return {"DAY_RUN": self.run, "DAY_BOOTSTRAP": bootstrap, "DAY_STATE": str(state)}


def application(names: Names, bootstrap: str, state: str) -> App:
    """Declare the application of a run."""
    app = App(
        names.run,
        broker=f"kafka://{bootstrap}",
        state_dir=state,
        autodiscover=False,
        topic_partitions=4,
        # So little that it is full within the first minutes: what grows after that is a leak.
        engine={"replication": 1, "store_memory": 8 << 20},
    )
    events = app.topic(names.events, value_type=Event, event_time="time")
    windows = app.topic(names.windows)
    totals = app.BatchTable("totals", default=int, key_type=str)
    minutes = (
        app.BatchTable("minutes", aggregate=Count(), key_type=str)
        .tumbling(60, expires=600)
        .emit_final(windows)
    )

    @app.batch_agent(events)
    async def count(batches: Batches) -> None:
        async for batch in batches:
            for event in batch:
                minutes[event.user] += 1
                totals[event.user] += 1

    return app


if "DAY_RUN" in os.environ:
    app = application(
        Names(os.environ["DAY_RUN"]), os.environ["DAY_BOOTSTRAP"], os.environ["DAY_STATE"]
    )
