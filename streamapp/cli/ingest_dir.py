"""`streamapp ingest dir`: the files of a directory."""

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
    sentence,
)
from streamapp.receivers.directory import DirectoryReceiver, DirectorySummary

__all__ = ["dir_"]


@click.command(
    "dir",
    short_help="Publish the files of a directory.",
    epilog=examples("dir /var/log/shop --topic log-lines --pattern '*.log' -f"),
)
@click.argument("path", type=click.Path(path_type=Path))
@common_options(name="the directory's absolute path")
@following
@click.option("--pattern", default="*", show_default=True, help="Names that are read.")
def dir_(path: Path, ingestion: Ingestion, **options: Any) -> None:
    """Publish the lines of all files in the directory PATH, each exactly once.

    Started again, it goes on where it was, also with files that were rotated meanwhile. Hidden and
    compressed files are left out; a line over the topic's limit goes to TOPIC-dead-letters.
    """
    receiver = DirectoryReceiver(path, **options)
    ticker = Ticker(str(path), lambda: receiver.status)
    ingestion.run(receiver, receiver.summary, _sentence, ticker)


def _sentence(summary: DirectorySummary) -> str:
    return sentence(
        f"{summary.lines:,} lines of {summary.path} published to {summary.topic}",
        f"{summary.files:,} new files",
        counted(summary.empty, "empty left out"),
        counted(summary.oversized, f"too long and sent to {summary.topic}-dead-letters"),
    )
