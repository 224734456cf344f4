"""What can be wrong with reading a ledger."""

from streamapp.errors import StreamappError

__all__ = ["LedgerError"]


class LedgerError(StreamappError):
    """The ledger cannot be read, or does not have what was asked for; the message says why."""
