"""State stores, tables, aggregations, windows and event time."""

from streamapp.state.aggregates import Aggregate, Count, Max, Mean, Min, Sum, TopK
from streamapp.state.table import BatchTable, WindowedTable
from streamapp.state.windows import Window

__all__ = [
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
]
