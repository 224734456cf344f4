"""The shop of the ledger's tests, which has what a reset and a migration change: state, groups, a ledger."""

from tests.ledger.conftest import shop

__all__ = ["shop"]
