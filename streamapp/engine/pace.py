"""How large the batches of a task may be, so that their transactions end in time."""

from __future__ import annotations

__all__ = ["Pace"]

#: A commit that takes less than this part of the transaction timeout leaves room for twice the batch.
_QUICK = 0.25


class Pace:
    """Halves the batches of a task whose transaction has timed out, and lets them grow again.

    Arguments:
        most: what the agents ask for.
        timeout: of a transaction, in seconds.
    """

    def __init__(self, most: int, timeout: float) -> None:
        self._most = most
        self._timeout = timeout
        #: How many records a batch may have.
        self.max_records = most

    def timed_out(self, records: int) -> None:
        """A transaction with a batch of so many records did not end in time; without any, time was due."""
        if records:
            self.max_records = max(1, min(self.max_records, records) // 2)

    def committed(self, seconds: float) -> None:
        """A transaction has taken so long."""
        if seconds < _QUICK * self._timeout:
            self.max_records = min(2 * self.max_records, self._most)
