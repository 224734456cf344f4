"""`streamapp ingest file`: a file line by line."""

import re
from pathlib import Path
from typing import Any

import click

from streamapp.cli.ingest_ticker import Ticker
from streamapp.cli.ingesting import (
    Ingestion,
    common_options,
    counted,
    examples,
    following,
    paced,
    sentence,
)
from streamapp.receivers.file import BATCH_LINES, FileReceiver, Summary

__all__ = ["file"]


class _Pattern(click.ParamType):
    """A regular expression over bytes."""

    name = "regex"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[bytes]:
        try:
            return re.compile(str(value).encode())
        except re.error as error:
            self.fail(f"{value!r} is not a regular expression: {error}", param, ctx)


@click.command(
    short_help="Publish a file line by line.",
    epilog=examples(
        "file visits.txt --topic visits --key '^\\w+'", "file app.log --topic log-lines --follow"
    ),
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@common_options(name="the file's absolute path")
@paced(None, "Lines a second.  [default: all]")
@following
@click.option(
    "--batch",
    "batch_lines",
    default=BATCH_LINES,
    show_default=True,
    type=click.IntRange(min=1),
    help="Most lines in one transaction.",
)
@click.option(
    "--key", type=_Pattern(), help="A line's key: the pattern's first group, or all it matches."
)
def file(path: Path, ingestion: Ingestion, **options: Any) -> None:
    """Publish the file PATH line by line, exactly once.

    Started again, it goes on where it was; with --follow it waits for more lines, also across
    rotation. Lines and the position in the file are committed in one transaction, so whatever
    happens no line is lost and none is published twice. Empty lines are skipped; a line over the
    topic's limit goes to TOPIC-dead-letters. Interrupted, it commits what it has read and exits
    with 0.
    """
    receiver = FileReceiver(path, **options)
    ticker = Ticker(str(path), lambda: receiver.status)
    ingestion.run(receiver, receiver.summary, _sentence, ticker)


def _sentence(summary: Summary) -> str:
    return sentence(
        f"{summary.lines:,} lines of {summary.path} published to {summary.topic}",
        f"from byte {summary.resumed_at:,} on" if summary.resumed_at else "",
        counted(summary.empty, "empty left out"),
        counted(summary.oversized, f"too long and sent to {summary.topic}-dead-letters"),
        f"{summary.lines / summary.seconds:,.0f} a second" if summary.seconds else "",
    )
