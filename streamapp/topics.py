"""The topics of the application that ships, and what their values are."""

from __future__ import annotations

from streamapp import app
from streamapp.engine import WindowRecord
from streamapp.logs import LogLine, decode_log_line

__all__ = ["error_windows", "log_lines", "text_lines", "word_totals"]

#: Lines of text, UTF-8, for the word count.
text_lines = app.topic("text-lines", value_type=str, partitions=4)

#: Words with their totals, each time that a batch has changed them; compacted by word.
word_totals = app.topic("word-totals", key_type=str, value_type=int, partitions=4, compacting=True)

#: Lines of an Apache error log as they are in the file; event time is the line's own.
log_lines = app.topic(
    "log-lines",
    value_type=LogLine,
    decode=decode_log_line,
    event_time="time",
    grace=5,
    partitions=4,
)

#: Error counts of each window, by module and in all, as they change and when they are final.
error_windows = app.topic("error-windows", value_type=WindowRecord, partitions=4)
