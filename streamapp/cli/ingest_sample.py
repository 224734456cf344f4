"""`streamapp ingest sample`: tweets that nobody wrote, or a log of no server, without an end."""

from typing import Any

import click

from streamapp.cli.ingest_ticker import Ticker
from streamapp.cli.ingesting import Ingestion, common_options, examples, paced
from streamapp.receivers.sample import Kind, SampleReceiver, SampleSummary

__all__ = ["sample"]


@click.command(
    short_help="Publish generated tweets, or a generated error log.",
    epilog=examples("sample tweets --topic tweets", "sample log --topic log-lines --rate 200"),
)
@click.argument("kind", type=click.Choice([kind.value for kind in Kind]))
@common_options(name="sample:KIND")
@paced(50.0, "So many a second, more of them while something flares up.")
def sample(kind: str, ingestion: Ingestion, **options: Any) -> None:
    """Publish generated tweets, or a generated error log, until interrupted.

    Each is published once, with the time of now. Started again, it goes on with the next one.
    """
    receiver = SampleReceiver(Kind(kind), **options)
    ticker = Ticker(f"sample {kind}", lambda: receiver.status, unit=_noun(kind))
    ingestion.run(receiver, receiver.summary, _sentence, ticker)


def _sentence(summary: SampleSummary) -> str:
    return f"{summary.records:,} generated {_noun(summary.kind)} published to {summary.topic}"


def _noun(kind: str) -> str:
    return "tweets" if kind == Kind.TWEETS else "log lines"
