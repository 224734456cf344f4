"""`streamapp ingest replay`: a recorded file at its own pace."""

from pathlib import Path
from typing import Any

import click

from streamapp.cli.ingesting import Ticker, common_options, log_to_stderr, run_as_owner, tell
from streamapp.receivers.file import FileReceiver, Progress, Summary
from streamapp.receivers.replay import ReplayReceiver

__all__ = ["replay"]


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@common_options
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Times the pace at which it was recorded.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Lines a second, whatever their times say.",
)
@click.option(
    "--time", "field", help="The JSON field that has the time.  [default: the usual ones]"
)
def replay(
    path: Path,
    topic: str,
    name: str | None,
    session_timeout: float,
    as_json: bool,
    speed: float,
    rate: float | None,
    field: str | None,
    **options: Any,
) -> None:
    """Publish the recorded FILE at the pace of its times, each line exactly once.

    FILE has a JSON object a line (tweets, say) or log lines with a time in them. Started again, it
    goes on where it was, and the next line is due at once.
    """
    log_to_stderr()
    ticker = Ticker(str(path))

    def show(progress: Progress) -> None:
        ticker(progress.lines, f", {progress.lag:,} bytes to go")

    name = name or f"replay:{path.absolute()}"
    receiver = (
        ReplayReceiver(
            path, topic, name=name, speed=speed, field=field, on_progress=show, **options
        )
        if rate is None
        else FileReceiver(path, topic, name=name, rate=rate, on_progress=show, **options)
    )
    summary = run_as_owner(receiver, session_timeout)
    if summary is not None:
        tell(summary, _sentence(summary), as_json)


def _sentence(summary: Summary) -> str:
    line = f"{summary.lines:,} lines of {summary.path} replayed to {summary.topic}"
    if summary.resumed_at:
        line += f", from byte {summary.resumed_at:,} on"
    return f"{line}, in {summary.seconds:,.1f} s"
