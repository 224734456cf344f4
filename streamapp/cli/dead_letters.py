"""`streamapp dead-letters …`: look at the records that could not be processed, and publish them again."""

from __future__ import annotations

import base64
import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, ClassVar

import click
from faust.cli.faust import cli

from streamapp.cli.ledger_command import LedgerCommand
from streamapp.errors import ConfigurationError
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.rendering import time_text
from streamapp.republishing import DeadLetters, KeptLetter, Terms

__all__ = ["dead_letters"]

_LIST_EPILOG = """\b
Example: what went wrong at the orders
    streamapp -A shop dead-letters list --topic orders
"""
_REPUBLISH_EPILOG = """\b
Example: when the agent is mended
    streamapp -A shop dead-letters republish --topic orders --dry-run
    streamapp -A shop dead-letters republish --topic orders

\b
Exit codes:
    0  done
    1  failed, as the message says, or a letter that --offset names was not published
    2  wrongly called
"""

#: So many characters of an error are in the list.
_ERROR = 160

_topic = click.option("--topic", metavar="NAME", help="Those of records of this topic.")
_agent = click.option("--agent", metavar="NAME", help="Those at which this agent failed.")


@cli.group("dead-letters", short_help="List what could not be processed, and publish it again.")
def dead_letters() -> None:
    """List the records that could not be processed, and publish them again."""


@dead_letters.command("list", epilog=_LIST_EPILOG)
@_topic
@_agent
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="The latest so many of them.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each, for a program."
)
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """List dead letters, the oldest first.

    One line a letter: PARTITION:OFFSET in the dead-letter topic, when it was put there, the record
    that it was, the agent that failed at it ("-" when it could not be read), and the error.
    """
    _List(ctx)(**options)


@dead_letters.command("republish", epilog=_REPUBLISH_EPILOG)
@click.option(
    "--offset",
    "ids",
    multiple=True,
    metavar="P:O",
    help="This one: PARTITION:OFFSET, as the list has it. May be given several times.",
)
@click.option("--all", "everything", is_flag=True, help="All that there are.")
@_topic
@_agent
@click.option("--dry-run", is_flag=True, help="Only say what would be published.")
@click.option("--again", is_flag=True, help="Also those that were published again before.")
@click.option("--cut", is_flag=True, help="Also those whose value was cut, as it is.")
@click.option(
    "--now", is_flag=True, help="With the time of now in place of the record's timestamp."
)
@click.pass_context
def republish(ctx: click.Context, /, **options: Any) -> None:
    """Publish dead letters again, as the records that they were.

    Key, value, headers, timestamp and partition are those of the record. Each letter is published once,
    however often this is repeated, and whatever is interrupted.
    """
    for letter in options["ids"]:
        if not re.fullmatch(r"\d+:\d+", letter):
            raise click.BadParameter(f"{letter!r} is no PARTITION:OFFSET", param_hint="--offset")
    if not any(options[name] for name in ("ids", "everything", "topic", "agent")):
        raise click.UsageError("say which: --offset, --topic, --agent, or --all")
    _Republish(ctx)(**options)


class _List(LedgerCommand):
    abstract: ClassVar[bool] = True

    async def run(self, topic: str | None, agent: str | None, limit: int, as_json: bool) -> int:
        app, chosen = self.application, _filtered(topic, agent)
        latest: deque[KeptLetter] = deque(maxlen=limit)
        count = 0
        async with LedgerReader(app.kafka_options()) as reader:
            async for kept in DeadLetters(app, reader).kept():
                if chosen(kept):
                    latest.append(kept)
                    count += 1
        for kept in sorted(latest, key=lambda kept: kept.at):
            if as_json:
                self.print_json(_as_json(kept))
            else:
                print(_line(kept), flush=True)
        if not as_json:
            shown = f", {limit} of them are shown" if count > limit else ""
            print(f"{count} dead letters in {app.dead_letter_topic}{shown}")
        return 0


class _Republish(LedgerCommand):
    abstract: ClassVar[bool] = True

    async def run(
        self,
        ids: tuple[str, ...],
        everything: bool,
        topic: str | None,
        agent: str | None,
        dry_run: bool,
        again: bool,
        cut: bool,
        now: bool,
    ) -> int:
        app, filtered = self.application, _filtered(topic, agent)
        async with LedgerReader(app.kafka_options()) as reader:
            outcome = await DeadLetters(app, reader).republish(
                lambda kept: (not ids or kept.id in ids) and filtered(kept),
                Terms(again, cut, now),
                dry_run=dry_run,
            )
        if ids:
            for letter, why in outcome.refused.items():
                print(f"{letter} is not published: {why}")
        else:
            for why, count in Counter(outcome.refused.values()).items():
                print(f"{count} not published: {why}")
        verb = "would be published" if dry_run else "published"
        print(f"{len(outcome.published)} {verb}, {len(outcome.refused)} refused", flush=True)
        unknown = set(ids) - set(outcome.published) - outcome.refused.keys()
        if unknown:
            raise ConfigurationError(
                f"there is no such dead letter in {app.dead_letter_topic}: {', '.join(sorted(unknown))}; "
                "`dead-letters list` shows them"
            )
        return 1 if ids and outcome.refused else 0


def _filtered(topic: str | None, agent: str | None) -> Callable[[KeptLetter], bool]:
    return lambda kept: topic in (None, kept.letter.topic) and agent in (None, kept.letter.agent)


def _line(kept: KeptLetter) -> str:
    letter = kept.letter
    # The error may quote the record: nothing in it is for the terminal.
    error = "".join(c if c.isprintable() else " " for c in letter.error)[:_ERROR]
    notes = [
        note
        for note, holds in (
            ("cut", letter.cut_from is not None),
            ("published again", kept.republished),
        )
        if holds
    ]
    told = f"  ({', '.join(notes)})" if notes else ""
    record = f"{letter.topic}:{letter.partition}:{letter.offset}"
    return f"{kept.id}  {time_text(kept.at)}  {record}  {letter.agent or '-'}  {error}{told}"


def _as_json(kept: KeptLetter) -> dict[str, Any]:
    letter = kept.letter
    return {
        "letter": kept.id,
        "at": kept.at,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp,
        "agent": letter.agent,
        "error": letter.error,
        "traceback": letter.traceback,
        **_text("key", letter.key),
        **_text("value", letter.value),
        "headers": [[name, value.decode(errors="replace")] for name, value in letter.headers],
        "cut_from": letter.cut_from,
        "republished": kept.republished,
    }


def _text(name: str, raw: bytes | None) -> dict[str, str | None]:
    """Return bytes as JSON has them: as text, or base64 under another name when they are none."""
    try:
        return {name: None if raw is None else raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw or b"").decode()}
