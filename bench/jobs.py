"""The application that is measured, as a user writes it: users counted in windows of a minute."""

from __future__ import annotations

from pathlib import Path

from bench.workload import PARTITIONS, TOPIC, WINDOW, Event
from streamapp import App, Batches, Count

__all__ = ["TABLE", "application"]

TABLE = "counts"


def application(name: str, form: str, bootstrap: str, state_dir: Path) -> App:
    """Return the application with its agent in one of two forms.

    Arguments:
        form: `batch` counts a batch at once, `record` one record after the other.
    """
    app = App(
        name,
        broker=f"kafka://{bootstrap}",
        state_dir=state_dir,
        topic_partitions=PARTITIONS,
        web_enabled=False,
    )
    events = app.topic(TOPIC, value_type=Event)
    counts = app.BatchTable(TABLE, aggregate=Count(), key_type=str, value_type=int).tumbling(
        WINDOW, expires=3600
    )

    if form == "batch":

        @app.batch_agent(events)
        async def count(batches: Batches) -> None:
            async for batch in batches:
                counts.add_each([event.user for event in batch.values])

    else:

        @app.batch_agent(events)
        async def count(batches: Batches) -> None:
            async for batch in batches:
                for event in batch:
                    counts[event.user] += 1

    return app
