"""`streamapp reset`: topologies begin anew, or their groups go where the checkpoints are."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec
from faust.cli.base import argument, option

from streamapp.cli.ledger_command import LedgerCommand, json_option
from streamapp.errors import ConfigurationError
from streamapp.ledger.reading import LedgerReader
from streamapp.lifecycle import Beginning, Reset, ResetToCheckpoint, TopologyReset

__all__ = ["reset"]


class reset(LedgerCommand):
    """Begin anew: empty the tables of topologies, and set where they read on.

    TOPOLOGIES are names of those of the application; no worker of theirs may run. Their tables are emptied,
    on whatever host a copy is, and their groups begin at --to. What they have published stays. Topologies
    that are joined by a key_by are reset together. The ledger keeps a note of it.

    With --to-checkpoint nothing begins anew: the offsets of the group alone are set to those of the
    last checkpoint, which is what somebody needs who has reset the group by other means.

    Example, to see first and do then: streamapp -A shop reset add_up --dry-run;
    streamapp -A shop reset add_up --to 2026-11-21T07:30:00Z

    Exits with 0 when it is done; with 1 when it failed, was refused or not confirmed; with 2 when it was wrongly called.
    """

    options = [
        argument("topologies", nargs=-1, required=True),
        option(
            "--to",
            "place",
            default="earliest",
            show_default=True,
            metavar="earliest|latest|TIME",
            help="Where to begin in the sources; a time is ISO 8601 or milliseconds.",
        ),
        option(
            "--to-checkpoint",
            is_flag=True,
            help="Keep the state, and set the group's offsets to where it is.",
        ),
        option("--dry-run", is_flag=True, help="Only say what would be done."),
        option("--yes", is_flag=True, help="Do not ask."),
        json_option,
    ]

    async def run(
        self,
        topologies: tuple[str, ...],
        place: str,
        to_checkpoint: bool,
        dry_run: bool,
        yes: bool,
        as_json: bool,
    ) -> int:
        """Reset; return the exit code."""
        if as_json and not (dry_run or yes):
            raise ConfigurationError("--json does not ask: say --yes or --dry-run")
        chosen = [found for name in dict.fromkeys(topologies) for found in self.topologies(name)]
        async with LedgerReader(self.application.kafka_options()) as reader:
            work: Reset | ResetToCheckpoint = (
                ResetToCheckpoint(self.application, reader, chosen)
                if to_checkpoint
                else Reset(self.application, reader, chosen, Beginning.parse(place))
            )
            plan = await work.plan()
            if not as_json:
                print("\n".join(line for part in plan for line in _lines(part)), flush=True)
            if not dry_run:
                if not yes and not click.confirm("Do it?", err=True):
                    return 1
                await work.run()
        if as_json:
            self.print_json({"done": not dry_run, "topologies": msgspec.to_builtins(plan)})
        elif dry_run:
            print("nothing was done: it was a dry run")
        else:
            print(f"done: start the workers of {', '.join(part.topology for part in plan)} again")
        return 0


def _lines(part: TopologyReset) -> Iterator[str]:
    what = "goes on from its checkpoint" if part.kind == "to-checkpoint" else "begins anew"
    yield f"{part.topology} {what}: {part.tasks} tasks, group {part.group}"
    for place, (before, begin) in part.offsets.items():
        yield f"  {place}: from {'nowhere' if before is None else before} to {begin}"
    for changelog, records in part.changelogs.items():
        yield f"  {changelog} is emptied: at most {records} keys"
