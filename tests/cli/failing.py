"""An application whose agent always fails, for `faust -A tests.cli.failing worker`."""

from __future__ import annotations

import os

from streamapp import App, Batches, Budget, ErrorPolicy

app = App(
    os.environ.get("STREAMAPP_TEST_PREFIX", "failing"),
    broker=f"kafka://{os.environ.get('STREAMAPP_TEST_BOOTSTRAP', '127.0.0.1:1')}",
    state_dir=os.environ.get("STREAMAPP_TEST_STATE"),
    autodiscover=False,
    web_enabled=False,
    engine={"errors": ErrorPolicy(skips=Budget(1)), "replication": 1},
)
lines = app.topic(f"{app.conf.id}-in", value_type=str, partitions=1)


@app.batch_agent(lines, within=0)
async def broken(batches: Batches) -> None:
    """Fail at the first line."""
    async for batch in batches:
        raise RuntimeError(f"no good: {batch.values[0]}")
