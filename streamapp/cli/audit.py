"""`streamapp audit`: whether the ledger proves that each record was in one batch."""

from __future__ import annotations

from streamapp.cli.ledger_command import LedgerCommand, json_option, topology_option
from streamapp.ledger.audit import audit as audit_of
from streamapp.ledger.rendering import audit_json, audit_text

__all__ = ["audit"]


class audit(LedgerCommand):
    """Prove from the ledger that nothing was skipped and nothing done twice.

    Batches have to follow each other, with no gap and no overlap. Reads what every checkpoint wrote about itself, for each source partition, and holds it against
    the offsets and the state that are committed. Workers may run meanwhile; nothing is written.

    Exits with 0 when all is well; with 1 when there is a gap, an overlap, or something committed that
    the ledger does not have; with 2 when it was wrongly called; and with 3 when it cannot tell.
    """

    options = [topology_option, json_option]
    refused = 3

    async def run(self, topology: str | None, as_json: bool) -> int:
        """Print the audit; return the exit code."""
        topologies = self.topologies(topology)
        found = await audit_of(self.application.kafka_options(), topologies)
        if as_json:
            self.print_json(audit_json(found))
        else:
            print(audit_text(found))
        return 0 if found.well else 1
