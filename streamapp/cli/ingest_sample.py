"""`streamapp ingest sample`: tweets that nobody wrote, or a log of no server, without an end."""

from typing import Any

import click

from streamapp.cli.ingesting import Ticker, common_options, log_to_stderr, run_as_owner, tell
from streamapp.receivers.sample import Kind, SampleReceiver, SampleSummary

__all__ = ["sample"]

_EPILOG = """\b
Examples:
    streamapp ingest sample tweets --topic tweets
    streamapp ingest sample log --topic log-lines --rate 200
"""


@click.command(epilog=_EPILOG)
@click.argument("kind", type=click.Choice([kind.value for kind in Kind]))
@common_options
@click.option(
    "--rate",
    default=50.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="So many a second, more of them while something flares up.",
)
def sample(kind: str, session_timeout: float, as_json: bool, **options: Any) -> None:
    """Publish generated tweets, or a generated error log, until interrupted.

    Each is published once, with the time of now. Started again, it goes on with the next one.
    """
    log_to_stderr()
    ticker = Ticker(f"sample {kind}")

    def show(summary: SampleSummary) -> None:
        ticker(summary.records)

    receiver = SampleReceiver(Kind(kind), on_progress=show, **options)
    run_as_owner(receiver, session_timeout)
    summary = receiver.summary
    tell(
        summary,
        f"{summary.records:,} generated {_noun(kind)} published to {summary.topic}",
        as_json,
    )


def _noun(kind: str) -> str:
    return "tweets" if kind == Kind.TWEETS else "log lines"
