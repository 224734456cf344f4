"""`streamapp migrate …`: take state along when what it was named after has changed."""

from __future__ import annotations

from typing import Any, ClassVar

import click
import msgspec
from faust.cli.faust import cli

from streamapp.cli.ledger_command import LedgerCommand
from streamapp.ledger.reading import LedgerReader
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


@cli.group("migrate", short_help="Take state along when a topology was renamed.")
def migrate() -> None:
    """Take the state of an application along when what it was named after has changed."""


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
