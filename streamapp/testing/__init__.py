"""Testing agents without a broker: `async with app.test() as t`."""

from streamapp.testing.app_test import AppTest
from streamapp.testing.records import DeadLetter, Sent

__all__ = ["AppTest", "DeadLetter", "Sent"]
