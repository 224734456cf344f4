"""`streamapp ingest tweets` and `streamapp ingest tweet-rules`: the X API's filtered stream."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from streamapp.cli.ingesting import GRACE, log_to_stderr, tell
from streamapp.errors import StreamappError
from streamapp.receivers.tweets import (
    Api,
    BearerToken,
    Progress,
    Rule,
    RuleBook,
    RuleChanges,
    Summary,
    TweetReceiver,
)
from streamapp.receivers.tweets.receiver import OVERLAP
from streamapp.receivers.tweets.rules import read_rules

__all__ = ["tweet_rules", "tweets"]

_SECONDS_BETWEEN_LINES = 10.0

Result = TypeVar("Result")

token_file = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds the bearer token.  [default: STREAMAPP_X_BEARER_TOKEN]",
)


@click.command()
@click.option("--topic", "-t", default="tweets", show_default=True, help="Where the tweets go.")
@click.option(
    "--bootstrap", "-b", default="localhost:9092", show_default=True, help="The broker's address."
)
@click.option("--name", default="tweets", show_default=True, help="Keeps the position.")
@click.option(
    "--partitions",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    help="Of the topic, if it has to be created.",
)
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
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def tweets(
    topic: str,
    bootstrap: str,
    name: str,
    partitions: int,
    rules: Sequence[str],
    rules_file: Path | None,
    token_file: Path | None,
    backfill_minutes: int | None,
    overlap: float,
    as_json: bool,
) -> None:
    """Publish what X's filtered stream selects, each tweet exactly once, until interrupted.

    Whenever the stream breaks off, and when this is started again, recent search finds what was
    missed. The bearer token comes from STREAMAPP_X_BEARER_TOKEN or a file, never from the command
    line.
    """
    if rules and rules_file is not None:
        raise click.UsageError("--rule adds to the rules on the server, --rules replaces them")
    log_to_stderr()
    token, api = BearerToken.find(token_file), Api.from_environment()
    receiver = TweetReceiver(
        topic,
        token,
        api=api,
        bootstrap=bootstrap,
        name=name,
        partitions=partitions,
        overlap=overlap,
        backfill_minutes=backfill_minutes,
        on_progress=_Lines(),
    )

    async def run() -> Summary:
        if rules or rules_file is not None:
            async with RuleBook(token, api) as book:
                if rules_file is not None:
                    changes = await book.sync(read_rules(rules_file))
                else:
                    changes = await book.ensure(map(Rule, rules))
            click.echo(_told(changes), err=True)
        return await _run(receiver)

    summary = asyncio.run(run())
    tell(summary, _sentence(summary), as_json)


@click.group(name="tweet-rules")
def tweet_rules() -> None:
    """List, add and delete the rules of X's filtered stream, or make them equal to a file."""


@tweet_rules.command(name="list")
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


@tweet_rules.command()
@token_file
@click.option("--tag", help="To tell the rule by.")
@click.argument("values", metavar="RULE...", nargs=-1, required=True)
def add(token_file: Path | None, tag: str | None, values: Sequence[str]) -> None:
    """Add rules, as 'python lang:en'; those that are there already stay."""
    wanted = [Rule(value, tag) for value in values]
    click.echo(_told(_with_book(token_file, lambda book: book.ensure(wanted))), err=True)


@tweet_rules.command()
@token_file
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def delete(token_file: Path | None, ids: Sequence[str]) -> None:
    """Delete rules by their ids."""
    deleted = _with_book(token_file, lambda book: book.delete(ids))
    click.echo(f"{deleted} of {len(ids)} rules deleted", err=True)
    if deleted < len(ids):
        raise StreamappError("some rules were not there: streamapp ingest tweet-rules list")


@tweet_rules.command()
@token_file
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def sync(token_file: Path | None, file: Path) -> None:
    """Make the rules on the server equal to FILE: one a line, a tag and a tab may go before it."""
    wanted = read_rules(file)
    click.echo(_told(_with_book(token_file, lambda book: book.sync(wanted))), err=True)


def _with_book(
    token_file: Path | None, action: Callable[[RuleBook], Coroutine[Any, Any, Result]]
) -> Result:
    token, api = BearerToken.find(token_file), Api.from_environment()

    async def run() -> Result:
        async with RuleBook(token, api) as book:
            return await action(book)

    return asyncio.run(run())


async def _run(receiver: TweetReceiver) -> Summary:
    """Run until a signal; a second one, or `GRACE` seconds, ends it at once."""
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(receiver.run())

    def interrupted() -> None:
        if receiver.stopping:
            running.cancel()
        else:
            receiver.stop()
            loop.call_later(GRACE, running.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        return await running
    except asyncio.CancelledError:
        raise StreamappError(
            "stopped before the broker had confirmed what was received last: it is published, or"
            " will be found when this is started again; nothing is lost or repeated"
        ) from None


class _Lines:
    """A line of progress every ten seconds, on standard error."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = self._clock()
        self._published = 0

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._told < _SECONDS_BETWEEN_LINES:
            return
        rate = (progress.published - self._published) / (now - self._told)
        self._told, self._published = now, progress.published
        behind = "" if progress.behind is None else f", {progress.behind:,.0f} s behind"
        click.echo(
            f"{progress.state}: {progress.published:,} tweets, {rate:,.1f} a second{behind},"
            f" {progress.backlog:,} lines waiting",
            err=True,
        )


def _told(changes: RuleChanges) -> str:
    return (
        f"rules: {len(changes.added)} added, {len(changes.deleted)} deleted,"
        f" {len(changes.kept)} kept"
    )


def _sentence(summary: Summary) -> str:
    parts = [f"{summary.published:,} tweets published to {summary.topic}"]
    if summary.searched:
        parts.append(f"{summary.searched:,} of them found by search")
    if summary.duplicates:
        parts.append(f"{summary.duplicates:,} that came again left out")
    if summary.dead_letters:
        parts.append(f"{summary.dead_letters:,} lines sent to {summary.topic}-dead-letters")
    parts.append(f"{summary.connects:,} connects")
    if summary.unsearchable:
        parts.append(f"{len(summary.unsearchable)} rules that search cannot make up for")
    if summary.alarms:
        parts.append("and a gap longer than search goes back, which is lost")
    return ", ".join(parts)
