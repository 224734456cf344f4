"""What can be wrong with reading a ledger, and with running a batch of it again."""

from streamapp.errors import StreamappError

__all__ = ["AgentRaised", "LedgerError"]


class LedgerError(StreamappError):
    """The ledger cannot be read, or does not have what was asked for; the message says why."""


class AgentRaised(LedgerError):
    """An agent raised while a batch was replayed; `__cause__` is what it raised."""
