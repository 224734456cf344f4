"""`streamapp ingest tweets` and `streamapp ingest tweet-rules`: the X API's filtered stream."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from streamapp.cli.ingest_ticker import Ticker
from streamapp.cli.ingesting import (
    Ingestion,
    common_options,
    counted,
    examples,
    sentence,
    write_ahead_log,
)
from streamapp.errors import StreamappError
from streamapp.receivers.tweets import (
    Api,
    BearerToken,
    Rule,
    RuleBook,
    Summary,
    TweetReceiver,
)
from streamapp.receivers.tweets.receiver import OVERLAP
from streamapp.receivers.tweets.rules import read_rules

__all__ = ["tweet_rules", "tweets"]

Result = TypeVar("Result")

token_file = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds the bearer token.  [default: STREAMAPP_X_BEARER_TOKEN]",
)


@click.command(
    short_help="Publish what X's filtered stream selects.",
    epilog=examples(
        "tweets --rule 'python lang:en' --token-file token.txt", "tweets --rules rules.txt"
    ),
)
@common_options(topic="tweets", default_name="tweets", name="tweets")
@click.option("--rule", "-r", "rules", multiple=True, help="Added to those on the server.")
@click.option(
    "--rules",
    "rules_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make the rules on the server equal to this file: one a line.",
)
@token_file
@click.option(
    "--backfill-minutes",
    type=click.IntRange(1, 5),
    help="Ask the stream for what was missed; enterprise access only.",
)
@click.option(
    "--overlap",
    default=OVERLAP,
    show_default=True,
    type=click.FloatRange(min=OVERLAP),
    help="Seconds by which a search for what was missed begins earlier.",
)
@write_ahead_log
def tweets(
    ingestion: Ingestion,
    rules: Sequence[str],
    rules_file: Path | None,
    token_file: Path | None,
    **options: Any,
) -> None:
    """Publish what X's filtered stream selects, each tweet exactly once, until interrupted.

    Whenever the stream breaks off, and when this is started again, recent search finds what was
    missed. The bearer token comes from STREAMAPP_X_BEARER_TOKEN or a file, never from the command
    line. What the stream has said and is not yet published a crash loses, and search finds again
    but for rules with sample: or bio:. With --wal it is not lost.
    """
    if rules and rules_file is not None:
        raise click.UsageError("--rule adds to the rules on the server, --rules replaces them")
    receiver = TweetReceiver(
        token=BearerToken.find(token_file),
        api=Api.from_environment(),
        rules=[*map(Rule, rules)] if rules_file is None else read_rules(rules_file),
        replace_rules=rules_file is not None,
        **options,
    )

    def more() -> str:
        progress = receiver.progress
        behind = "" if progress.behind is None else f", {progress.behind:,.0f} s behind"
        return f"{progress.state}{behind}"

    ticker = Ticker(
        "tweets",
        lambda: receiver.status,
        unit="tweets",
        lag="lines waiting",
        more=more,
    )
    ingestion.run(receiver, receiver.summary, _sentence, ticker, verbose=True)


@click.group(name="tweet-rules", short_help="Manage the rules of X's filtered stream.")
def tweet_rules() -> None:
    """List, add and delete the rules of X's filtered stream, or make them equal to a file."""


@tweet_rules.command(name="list", epilog=examples("tweet-rules list"))
@token_file
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON array.")
def list_rules(token_file: Path | None, as_json: bool) -> None:
    """List the rules on the server."""
    found = _with_book(token_file, lambda book: book.list())
    if as_json:
        click.echo(json.dumps([asdict(rule) for rule in found]))
    elif not found:
        click.echo("there are no rules on the server", err=True)
    else:
        for rule in found:
            click.echo("\t".join([rule.id or "", rule.tag or "", rule.value]))


@tweet_rules.command(epilog=examples("tweet-rules add --tag snake 'python lang:en'"))
@token_file
@click.option("--tag", help="To tell the rule by.")
@click.argument("values", metavar="RULE...", nargs=-1, required=True)
def add(token_file: Path | None, tag: str | None, values: Sequence[str]) -> None:
    """Add rules, as 'python lang:en'; those that are there already stay."""
    wanted = [Rule(value, tag) for value in values]
    click.echo(_with_book(token_file, lambda book: book.ensure(wanted)), err=True)


@tweet_rules.command(epilog=examples("tweet-rules delete 1165037377523306498"))
@token_file
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def delete(token_file: Path | None, ids: Sequence[str]) -> None:
    """Delete rules by their ids."""
    deleted = _with_book(token_file, lambda book: book.delete(ids))
    click.echo(f"{deleted} of {len(ids)} rules deleted", err=True)
    if deleted < len(ids):
        raise StreamappError("some rules were not there: streamapp ingest tweet-rules list")


@tweet_rules.command(epilog=examples("tweet-rules sync rules.txt"))
@token_file
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def sync(token_file: Path | None, file: Path) -> None:
    """Make the rules on the server equal to FILE: one a line, a tag and a tab may go before it."""
    wanted = read_rules(file)
    click.echo(_with_book(token_file, lambda book: book.sync(wanted)), err=True)


def _with_book(
    token_file: Path | None, action: Callable[[RuleBook], Coroutine[Any, Any, Result]]
) -> Result:
    token, api = BearerToken.find(token_file), Api.from_environment()

    async def run() -> Result:
        async with RuleBook(token, api) as book:
            return await action(book)

    return asyncio.run(run())


def _sentence(summary: Summary) -> str:
    return sentence(
        f"{summary.published:,} tweets published to {summary.topic}",
        counted(summary.searched, "of them found by search"),
        counted(summary.left_over, "that were received before a crash"),
        counted(summary.duplicates, "that came again left out"),
        counted(summary.dead_letters, f"lines sent to {summary.topic}-dead-letters"),
        f"{summary.connects:,} connects",
        counted(len(summary.unsearchable), "rules that search cannot make up for"),
        "and a gap longer than search goes back, which is lost" if summary.alarms else "",
    )
