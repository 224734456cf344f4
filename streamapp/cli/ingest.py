"""`streamapp ingest …`: publish an outside source to a topic, exactly once."""

import click

from streamapp.cli.ingest_dir import dir_
from streamapp.cli.ingest_file import file
from streamapp.cli.ingest_replay import replay
from streamapp.cli.ingest_sample import sample
from streamapp.cli.ingest_sockets import listen, socket
from streamapp.cli.ingest_tweets import tweet_rules, tweets

__all__ = ["ingest"]

_EPILOG = """\b
Exit codes:
    0  at the end of the source, or interrupted, and all that was read is committed
    1  failed, as the message says; what was committed is not published again
    2  wrongly called
"""


@click.group(epilog=_EPILOG)
def ingest() -> None:
    """Publish an outside source to a topic, exactly once."""


for _command in (dir_, file, listen, replay, sample, socket, tweet_rules, tweets):
    ingest.add_command(_command)
