"""`streamapp ingest dir`: the files of a directory."""

from pathlib import Path
from typing import Any

import click

from streamapp.cli.ingesting import Ticker, common_options, log_to_stderr, run_as_owner, tell
from streamapp.receivers.directory import DirectoryReceiver, DirectorySummary

__all__ = ["dir_"]


@click.command("dir")
@click.argument("path", type=click.Path(path_type=Path))
@common_options
@click.option("--follow", "-f", is_flag=True, help="Wait for more lines and files.")
@click.option("--pattern", default="*", show_default=True, help="Names that are read.")
def dir_(path: Path, session_timeout: float, as_json: bool, **options: Any) -> None:
    """Publish the lines of all files in the directory PATH, each exactly once.

    Started again, it goes on where it was, also with files that were rotated meanwhile. Hidden and
    compressed files are left out; a line over the topic's limit goes to TOPIC-dead-letters.
    """
    log_to_stderr()
    ticker = Ticker(str(path))

    def show(summary: DirectorySummary, lag: int) -> None:
        ticker(summary.lines, f", {lag:,} bytes to go")

    receiver = DirectoryReceiver(path, on_progress=show, **options)
    run_as_owner(receiver, session_timeout)
    tell(receiver.summary, _sentence(receiver.summary), as_json)


def _sentence(summary: DirectorySummary) -> str:
    parts = [f"{summary.lines:,} lines of {summary.path} published to {summary.topic}"]
    parts.append(f"{summary.files:,} new files")
    if summary.empty:
        parts.append(f"{summary.empty:,} empty left out")
    if summary.oversized:
        parts.append(f"{summary.oversized:,} too long and sent to {summary.topic}-dead-letters")
    return ", ".join(parts)
