"""A broker of the test's own, in its event loop, and a client that says what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamapp.broker import Broker
from tests.broker.wire import Client


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A broker in memory."""
    async with Broker() as broker:
        yield broker


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[Client]:
    """A connection to it."""
    async with Client(broker) as client:
        yield client
