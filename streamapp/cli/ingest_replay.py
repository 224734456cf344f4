"""`streamapp ingest replay`: a recorded file at its own pace."""

from pathlib import Path
from typing import Any

import click

from streamapp.cli.ingest_ticker import Ticker
from streamapp.cli.ingesting import Ingestion, common_options, examples, paced, sentence
from streamapp.receivers.file import FileReceiver, Summary
from streamapp.receivers.replay import ReplayReceiver

__all__ = ["replay"]


@click.command(
    short_help="Publish a recorded file at its own pace, or at another.",
    epilog=examples(
        "replay tweets.jsonl --topic tweets --speed 60",
        "replay access.log --topic log-lines --rate 1000",
    ),
)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@common_options(name="the file's absolute path")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Times the pace at which it was recorded.",
)
@paced(None, "Lines a second, whatever their times say.")
@click.option(
    "--time", "field", help="The JSON field that has the time.  [default: the usual ones]"
)
def replay(
    path: Path,
    ingestion: Ingestion,
    name: str | None,
    speed: float,
    rate: float | None,
    field: str | None,
    **options: Any,
) -> None:
    """Publish the recorded FILE at the pace of its times, each line exactly once.

    FILE has a JSON object a line (tweets, say) or log lines with a time in them. Started again, it
    goes on where it was, and the next line is due at once.
    """
    options["name"] = name or f"replay:{path.absolute()}"
    receiver = (
        ReplayReceiver(path, speed=speed, field=field, **options)
        if rate is None
        else FileReceiver(path, rate=rate, **options)
    )
    ticker = Ticker(str(path), lambda: receiver.status)
    ingestion.run(receiver, receiver.summary, _sentence, ticker)


def _sentence(summary: Summary) -> str:
    return sentence(
        f"{summary.lines:,} lines of {summary.path} replayed to {summary.topic}",
        f"from byte {summary.resumed_at:,} on" if summary.resumed_at else "",
        f"in {summary.seconds:,.1f} s",
    )
