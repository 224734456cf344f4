"""Exactly-once stream processing on Kafka, written the way Faust is written.

`from streamapp import App` begins an application of your own; `from streamapp import app` is the
one that ships, imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamapp.engine import App, Batch, Batches, Topic, WindowRecord
from streamapp.state import Aggregate, BatchTable, Count, Max, Mean, Min, Sum, Window, WindowedTable

if TYPE_CHECKING:
    from streamapp.application import app as app

__all__ = [
    "Aggregate",
    "App",
    "Batch",
    "BatchTable",
    "Batches",
    "Count",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "Topic",
    "Window",
    "WindowRecord",
    "WindowedTable",
]


def __getattr__(name: str) -> Any:
    # A submodule named `app` would shadow the attribute that `faust -A streamapp` asks for.
    if name == "app":
        from streamapp.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
