"""The topics of the application that ships, and what their values are."""

from __future__ import annotations

from streamapp import app
from streamapp.engine import WindowRecord
from streamapp.logs import LogLine, decode_log_line
from streamapp.tweets import Trends, Tweet, decode_tweet

__all__ = ["error_windows", "log_lines", "text_lines", "trends", "tweets", "word_totals"]

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

#: Tweets as X sends them, keyed by id; event time is when they were written. Delivery is not in
#: order, and what fills a gap comes late.
tweets = app.topic(
    "tweets",
    key_type=str,
    value_type=Tweet,
    decode=decode_tweet,
    event_time="time",
    grace=30,
    partitions=4,
)

#: The trends of the latest window, by language and of all tweets (`*`); compacted by that.
trends = app.topic("trends", key_type=str, value_type=Trends, partitions=4, compacting=True)
