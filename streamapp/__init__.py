"""Exactly-once stream processing on Kafka, written the way Faust is written.

`from streamapp import App` begins an application of your own; `from streamapp import app` is the
one that ships. Whatever else Faust has is here under its name (`streamapp.Record`): a Faust user
changes the import. Names are imported on first use: `streamapp broker` does not wait for Faust, and a
submodule named `app` would shadow the attribute that `faust -A streamapp` asks for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamapp.application import app as app
    from streamapp.engine import App as App
    from streamapp.engine import Batch as Batch
    from streamapp.engine import Batches as Batches
    from streamapp.engine import ErrorPolicy as ErrorPolicy
    from streamapp.engine import KeyBy as KeyBy
    from streamapp.engine import OnError as OnError
    from streamapp.engine import Topic as Topic
    from streamapp.engine import WindowRecord as WindowRecord
    from streamapp.state import Aggregate as Aggregate
    from streamapp.state import BatchTable as BatchTable
    from streamapp.state import Count as Count
    from streamapp.state import Max as Max
    from streamapp.state import Mean as Mean
    from streamapp.state import Min as Min
    from streamapp.state import Sum as Sum
    from streamapp.state import TopK as TopK
    from streamapp.state import Window as Window
    from streamapp.state import WindowedTable as WindowedTable
    from streamapp.supervision import Backoff as Backoff
    from streamapp.supervision import Budget as Budget

_ENGINE = (
    "App",
    "Batch",
    "Batches",
    "ErrorPolicy",
    "KeyBy",
    "OnError",
    "Topic",
    "WindowRecord",
)
_STATE = (
    "Aggregate",
    "BatchTable",
    "Count",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "TopK",
    "Window",
    "WindowedTable",
)
_HOMES = {
    **dict.fromkeys(_ENGINE, "streamapp.engine"),
    **dict.fromkeys(_STATE, "streamapp.state"),
    **dict.fromkeys(("Backoff", "Budget"), "streamapp.supervision"),
    "app": "streamapp.application",
}

__all__ = [
    "Aggregate",
    "App",
    "Backoff",
    "Batch",
    "BatchTable",
    "Batches",
    "Budget",
    "Count",
    "ErrorPolicy",
    "KeyBy",
    "Max",
    "Mean",
    "Min",
    "OnError",
    "Sum",
    "TopK",
    "Topic",
    "Window",
    "WindowRecord",
    "WindowedTable",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        # What is Faust's stays Faust's: `import streamapp as faust` runs a Faust application.
        faust = import_module("faust")
        if name.startswith("_") or name not in faust.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(faust, name)
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found
