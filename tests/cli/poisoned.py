"""An application that cannot bear numbers below zero, for `-A tests.cli.poisoned`."""

from __future__ import annotations

import os

from streamapp import App, Batches

__all__ = ["build"]


def build(prefix: str, bootstrap: str, state: str | None) -> App:
    """Declare the application under a prefix of names."""
    app = App(
        f"{prefix}poisoned",
        broker=f"kafka://{bootstrap}",
        state_dir=state,
        autodiscover=False,
        topic_partitions=1,
        engine={"replication": 1, "session_timeout": 6.0, "heartbeat_interval": 0.5},
    )
    numbers = app.topic(f"{prefix}numbers", value_type=int, partitions=2)
    echoed = app.topic(f"{prefix}echoed", value_type=int, partitions=2)

    @app.batch_agent(numbers, within=0)
    async def echo(batches: Batches) -> None:
        async for batch in batches:
            for key, number in batch.items():
                if number < 0:
                    raise ValueError(f"no {number}\x1b[2J")
                await echoed.send(key=key, value=number)

    return app


if "STREAMAPP_TEST_PREFIX" in os.environ:
    app = build(
        os.environ["STREAMAPP_TEST_PREFIX"],
        os.environ["STREAMAPP_TEST_BOOTSTRAP"],
        os.environ["STREAMAPP_TEST_STATE"],
    )
