"""`streamapp demo`: a log through Kafka's protocol into windowed counts, before one's eyes."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click
import msgspec
from rich.console import Console

__all__ = ["demo"]

_FOLDERS = Path(".streamapp")

_PIPE_WIDTH = 100

_RULE = "python lang:en"

# As the receiver knows it; importing that takes longer than to show the help.
_TOKEN = "STREAMAPP_X_BEARER_TOKEN"

_EPILOG = """\b
Examples:
    streamapp demo
    streamapp demo --logs /var/log/apache2/error.log --until-done
    streamapp demo --for 20 --json | jq .errors
    streamapp demo --tweets
    STREAMAPP_X_BEARER_TOKEN=… streamapp demo --tweets --live --rule 'kafka lang:en'
"""


@click.command("demo", epilog=_EPILOG, short_help="Run the main job: a log into windowed counts.")
@click.option(
    "--logs",
    "log",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    help="An Apache error log.  [default: a sample, generated once]",
)
@click.option(
    "--tweets", is_flag=True, help="Tweets into trending hashtags instead: generated ones."
)
@click.option(
    "--live",
    is_flag=True,
    help=f"With --tweets: those of X's filtered stream, from now on. {_TOKEN} has the bearer token.",
)
@click.option(
    "--rule",
    help="With --live: what to select; added to the rules on the server.  [default: python lang:en]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    help="Lines or tweets a second, 0 for as many as go.  [default: 200 of a sample, all of a log]",
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End so long after the view has started.",
)
@click.option(
    "--until-done",
    is_flag=True,
    help="End when all of it is counted (without a terminal and --for: always, but for --live).",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what was found as one JSON object; times are milliseconds since the epoch.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where it keeps everything.  [default: .streamapp/demo, with --logs .streamapp/demo-NAME, "
    "with --tweets .streamapp/demo-tweets, with --live .streamapp/demo-live]",
)
@click.option("--fresh", is_flag=True, help="Begin anew: remove what an earlier demo has left.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), hidden=True)
def demo(
    log: Path | None,
    tweets: bool,
    live: bool,
    rule: str | None,
    rate: float | None,
    seconds: float | None,
    until_done: bool,
    as_json: bool,
    folder: Path | None,
    fresh: bool,
    svg: Path | None,
) -> None:
    """Run the main job: the errors of a log, counted in windows of 30 seconds, every 10.

    It starts the embedded broker, publishes the log line by line, runs `faust -A streamapp worker`
    as a process of its own, and shows what the worker commits. Started again, it goes on where it
    was, also after kill -9 of everything. Ctrl-C ends it. With --tweets it is hashtags instead: the
    most used in windows of 5 minutes, every minute, and those most above their own past; with
    --live those of the real stream, where the first window is over after a minute or two.
    """
    if tweets and log is not None:
        raise click.UsageError("--tweets and --logs: the demo is of one of them")
    if live and not tweets:
        raise click.UsageError("--live goes with --tweets")
    if rule is not None and not live:
        raise click.UsageError("--rule goes with --live: generated tweets are not selected")
    if live and (rate is not None or until_done):
        raise click.UsageError(
            "--live has no --rate and is never done: end it with --for or Ctrl-C"
        )
    if live and not os.environ.get(_TOKEN):
        raise click.ClickException(
            f"--live receives what X's API selects, and that needs a bearer token: set {_TOKEN} to that"
            " of your app. Without --live the tweets are generated, and need none"
        )
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    what = "trending hashtags" if tweets else "errors of a log, counted in windows"
    console.print(f"[bold]streamapp demo[/]: {what}, exactly once")
    try:
        from streamapp.broker import BrokerError
        from streamapp.demo.folder import Folder
        from streamapp.demo.jobs import Job, LiveJob, LogJob, TweetJob
        from streamapp.demo.run import Demo, Options
    except ImportError as error:
        raise click.ClickException(str(error)) from None

    sample = "demo-live" if live else "demo-tweets" if tweets else "demo"
    place = Folder(folder or (_FOLDERS / (sample if log is None else f"demo-{log.name}")))
    job: Job
    if live:
        job = LiveJob(rule or _RULE, os.environ)
    elif tweets:
        job = TweetJob(place, rate)
    else:
        job = LogJob(place, log, rate)
    if fresh:
        place.clear()
    options = Options(
        folder=place,
        job=job,
        seconds=seconds,
        until_done=until_done or (seconds is None and not live and not console.is_terminal),
        svg=svg,
    )

    async def run() -> bytes:
        return msgspec.json.encode(await Demo(options, console).run())

    with place.claim(job.name):
        _log_to(place.demo_log)
        try:
            summary = asyncio.run(run())
        except BrokerError as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(summary.decode())


def _log_to(path: Path) -> None:
    """Keep log lines away from the view; what matters of them ends as a message anyway."""
    logging.basicConfig(
        filename=path,
        filemode="w",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
