"""`streamapp health`: whether a worker or an ingester does its work, as an exit code."""

from __future__ import annotations

import time
from pathlib import Path

import click

from streamapp.pulse import VARIABLE, examine

__all__ = ["health"]

_EPILOG = """\b
Example:
    STREAMAPP_PULSE=/tmp/pulse faust -A streamapp worker &
    streamapp health /tmp/pulse && echo well
"""


@click.command(epilog=_EPILOG)
@click.argument("path", metavar="[FILE]", envvar=VARIABLE, type=click.Path(path_type=Path))
@click.option(
    "--max-age",
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long ago all may have gone well.",
)
def health(path: Path, max_age: float) -> None:
    """Exit with 0 if the process that keeps FILE does its work, else with 1 and the reason.

    A worker or an ingester keeps the file that STREAMAPP_PULSE names in its environment, which is
    the default for FILE too. It is well while its event loop turns and nothing is stuck: no task
    of the engine has had records for 60 seconds without a commit, and every receiver runs or waits for
    its turn.
    """
    age = examine(path, max_age, time.time())
    click.echo(f"well, as of {age:,.0f} s ago")
