"""`streamapp migrate …`: go on with the state when names or partitions have changed."""

from __future__ import annotations

from typing import Any, ClassVar

import click
import msgspec
from faust.cli.faust import cli

from streamapp.cli.ledger_command import LedgerCommand
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle.partitions import Growth
from streamapp.lifecycle.rename import Rename

__all__ = ["migrate"]

_RENAME_EPILOG = """\b
Example: the function add_up is named sum_up now
    streamapp -A shop migrate rename add_up sum_up --dry-run
    streamapp -A shop migrate rename add_up sum_up

\b
Exit codes:
    0  done, or shown with --dry-run
    1  failed or refused, as the message says
    2  wrongly called
"""
_PARTITIONS_EPILOG = """\b
Example: the topic that route reads has more partitions
    streamapp -A shop migrate partitions route

\b
Exit codes:
    0  done, or shown with --dry-run
    1  failed or refused, as the message says
    2  wrongly called
"""


@cli.group("migrate", short_help="Go on after a topology was renamed, or its source grew.")
def migrate() -> None:
    """Go on with the state of an application when what it depends on has changed."""


@migrate.command("rename", epilog=_RENAME_EPILOG)
@click.argument("old")
@click.argument("new")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@click.pass_context
def rename(ctx: click.Context, /, **options: Any) -> None:
    """Let the topology NEW go on from where it stood as OLD.

    A topology has the name of its batch agent, unless it is given one. Its offsets and markers go under the
    new name; its tables stay, and the stores of the workers are restored anew. No worker of
    either name may run. The ledger of the old name stays until its entries are too old.
    """
    _Rename(ctx)(**options)


@migrate.command("partitions", epilog=_PARTITIONS_EPILOG)
@click.argument("topology")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@click.pass_context
def partitions(ctx: click.Context, /, **options: Any) -> None:
    """Let TOPOLOGY have as many tasks as its sources have partitions by now.

    One that keeps tables is refused: with more partitions, keys go elsewhere than their state is. It is to be
    reset. New partitions are read from their beginning. No worker of the topology may run.
    """
    _Partitions(ctx)(**options)


class _Partitions(LedgerCommand):
    abstract: ClassVar[bool] = True

    async def run(self, topology: str, dry_run: bool, as_json: bool) -> int:
        [chosen] = self.topologies(topology)
        async with LedgerReader(self.application.kafka_options()) as reader:
            work = Growth(self.application, reader, chosen)
            plan = await work.plan()
            if not dry_run:
                await work.run()
        if as_json:
            self.print_json({"done": not dry_run, **msgspec.to_builtins(plan)})
        else:
            print(f"{topology}: from {plan.tasks} tasks to {plan.becoming}{', not done' * dry_run}")
        return 0


class _Rename(LedgerCommand):
    abstract: ClassVar[bool] = True

    async def run(self, old: str, new: str, dry_run: bool, as_json: bool) -> int:
        [topology] = self.topologies(new)
        async with LedgerReader(self.application.kafka_options()) as reader:
            work = Rename(self.application, reader, old, topology)
            plan = await work.plan()
            if not as_json:
                print(f"{old} goes on as {new}: {plan.tasks} tasks")
                for place, offset in plan.offsets.items():
                    print(f"  {place}: at {offset}", flush=True)
            if not dry_run:
                await work.run()
        if as_json:
            self.print_json({"done": not dry_run, **msgspec.to_builtins(plan)})
        elif dry_run:
            print("nothing was done: it was a dry run")
        else:
            print(f"done: start the workers of {new}")
        return 0
