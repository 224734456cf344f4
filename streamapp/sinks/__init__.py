"""Outside systems that keep a batch of `foreach_batch` once, by remembering its id beside the rows."""

from streamapp.sinks.latest import Latest
from streamapp.sinks.postgres import PostgresSink
from streamapp.sinks.sqlite import SqliteSink

__all__ = ["Latest", "PostgresSink", "SqliteSink"]
