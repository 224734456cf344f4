"""The application of these tests, on the broker under test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers import BrokerUnderTest
from tests.ledger.shop import Shop, make_changelog


@pytest.fixture
async def shop(kafka: BrokerUnderTest, tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    """The shop, exactly once unless the test says otherwise, with a topic of orders."""
    await kafka.create_topic("orders", partitions=2)
    await make_changelog(kafka, "shop-spent", partitions=2)
    return Shop(kafka, tmp_path / "state", getattr(request, "param", "exactly_once"))
