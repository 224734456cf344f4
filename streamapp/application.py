"""The application that ships: `faust -A streamapp worker` runs the agents of this checkout."""

from __future__ import annotations

import importlib.util
import os

from streamapp.engine.app import App

__all__ = ["app"]


def _jobs() -> list[str]:
    """Return the packages of agents and tables, when they are there: they are not in the wheel."""
    found = importlib.util.find_spec("agents")
    ours = found is not None and importlib.util.find_spec("agents.errors") is not None
    return ["agents", "tables"] if ours else []


app = App(
    "streamapp",
    broker=os.environ.get("STREAMAPP_BROKER", "kafka://127.0.0.1:9092"),
    autodiscover=_jobs,
    topic_partitions=4,
    web_enabled=False,
)
