"""`streamapp batches`: the latest batches, from the ledger."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from faust.cli.base import option

from streamapp.cli.ledger_command import LedgerCommand, json_option, topology_option
from streamapp.ledger.batches import CommittedBatch, following, latest_batches
from streamapp.ledger.reading import LedgerReader
from streamapp.ledger.rendering import batches_text

__all__ = ["batches"]


class batches(LedgerCommand):
    """List the latest batches that are committed.

    One line a batch: its id, what came out of its checkpoint, how long it was processed and
    committed, and by which worker. How long a commit took is known once the task has committed
    again.
    """

    options = [
        topology_option,
        option(
            "--limit", default=20, show_default=True, metavar="N", help="So many of them.", type=int
        ),
        option("--follow", is_flag=True, help="Go on with those that come, until Ctrl-C."),
        json_option,
    ]

    async def run(self, topology: str | None, limit: int, follow: bool, as_json: bool) -> int:
        """Print the batches; return the exit code."""
        topologies = self.topologies(topology)
        async with LedgerReader(self.application.kafka_options()) as reader:
            found, positions = await latest_batches(reader, topologies, max(1, limit))
            self._show(found, as_json, head=True)
            if follow:
                async for batch in following(reader, positions):
                    self._show([batch], as_json, head=False)
        return 0

    def _show(self, found: Sequence[CommittedBatch], as_json: bool, *, head: bool) -> None:
        if as_json:
            for batch in found:
                self.print_json(msgspec.to_builtins(batch))
        else:
            for line in batches_text(found, head=head):
                print(line, flush=True)
