"""`streamapp ingest …`: publish an outside source to a topic, exactly once."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from streamapp.cli.ingest_dir import dir_
from streamapp.cli.ingest_replay import replay
from streamapp.cli.ingest_sample import sample
from streamapp.cli.ingest_sockets import listen, socket
from streamapp.cli.ingest_tweets import tweet_rules, tweets
from streamapp.cli.ingesting import log_to_stderr, stoppable, tell
from streamapp.receivers.file import BATCH_LINES, FileReceiver, Progress, Summary

__all__ = ["ingest"]

_SECONDS_BETWEEN_LINES = 10.0


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


@click.group()
def ingest() -> None:
    """Publish an outside source to a topic, exactly once."""


for _command in (dir_, listen, replay, sample, socket, tweet_rules, tweets):
    ingest.add_command(_command)


@ingest.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--topic", "-t", required=True, help="Where the lines go.")
@click.option(
    "--bootstrap", "-b", default="localhost:9092", show_default=True, help="The broker's address."
)
@click.option("--name", help="Keeps the position.  [default: the file's absolute path]")
@click.option(
    "--partitions",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    help="Of the topic, if it has to be created.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Lines a second.  [default: all]"
)
@click.option("--follow", "-f", is_flag=True, help="Wait for more lines, also across rotation.")
@click.option(
    "--batch",
    default=BATCH_LINES,
    show_default=True,
    type=click.IntRange(min=1),
    help="Most lines in one transaction.",
)
@click.option(
    "--key", type=_Pattern(), help="A line's key: the pattern's first group, or all it matches."
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def file(
    path: Path,
    topic: str,
    bootstrap: str,
    name: str | None,
    partitions: int,
    rate: float | None,
    follow: bool,
    batch: int,
    key: re.Pattern[bytes] | None,
    as_json: bool,
) -> None:
    """Publish the file PATH line by line, exactly once.

    Started again, it goes on where it was. Lines and the position in the file are committed in one transaction, so whatever happens no line
    is lost and none is published twice. Empty lines are skipped; a line over the topic's limit goes
    to TOPIC-dead-letters. Interrupted, it commits what it has read and exits with 0.
    """
    log_to_stderr()
    with _progress(path) as show:
        receiver = FileReceiver(
            path,
            topic,
            bootstrap=bootstrap,
            name=name,
            partitions=partitions,
            rate=rate,
            follow=follow,
            batch_lines=batch,
            key=key,
            on_progress=show,
        )
        summary = asyncio.run(_run(receiver))
    if summary is not None:
        tell(summary, _sentence(summary), as_json)


async def _run(receiver: FileReceiver) -> Summary | None:
    return await stoppable(receiver, asyncio.ensure_future(receiver.supervised()))


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; elsewhere a line now and then; always on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(path)
        return
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]:,} lines, {task.fields[rate]:,.0f} a second"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(path.name, total=None, lines=0, rate=0.0)

        def show(progress: Progress) -> None:
            elapsed = bar.tasks[task].elapsed or 0.0
            bar.update(
                task,
                total=progress.total,
                completed=progress.total - progress.lag,
                lines=progress.lines,
                rate=progress.lines / elapsed if elapsed else 0.0,
            )

        yield show


class _Lines:
    """Progress for a log: a line every ten seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._started = self._told = self._clock()

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._told = now
        rate = progress.lines / (now - self._started)
        click.echo(
            f"{self._path}: {progress.lines:,} lines, {progress.size:,} bytes,"
            f" {rate:,.0f} lines a second, {progress.lag:,} bytes to go",
            err=True,
        )


def _sentence(summary: Summary) -> str:
    parts = [f"{summary.lines:,} lines of {summary.path} published to {summary.topic}"]
    if summary.resumed_at:
        parts.append(f"from byte {summary.resumed_at:,} on")
    if summary.empty:
        parts.append(f"{summary.empty:,} empty left out")
    if summary.oversized:
        parts.append(f"{summary.oversized:,} too long and sent to {summary.topic}-dead-letters")
    if summary.seconds:
        parts.append(f"{summary.lines / summary.seconds:,.0f} a second")
    return ", ".join(parts)
