"""Views of the ledger: reading it, judging it and showing it, each in modules of their own.

    audited = await audit(app.kafka_options(), app.topologies())
    assert audited.well, audit_text(audited)

Reading knows Kafka and judges nothing; the proof is of entries alone; rendering is of what was found.
Whatever looks at the ledger (the commands, the operator's page, the tests that kill workers) uses them.
"""

from streamapp.ledger.audit import Audit, PartitionAudit, TaskAudit, audit
from streamapp.ledger.errors import LedgerError
from streamapp.ledger.rendering import audit_json, audit_text
from streamapp.ledger.reset import reset_entry

__all__ = [
    "Audit",
    "LedgerError",
    "PartitionAudit",
    "TaskAudit",
    "audit",
    "audit_json",
    "audit_text",
    "reset_entry",
]
