"""Batches made by hand, for sinks: to them only the range matters."""

from __future__ import annotations

from streamapp.engine.batch import Batch
from streamapp.state.cursor import Cursor
from tests.engine.tasks import an_app

__all__ = ["batch_of"]


def batch_of(from_offset: int, until_offset: int, partition: int = 0) -> Batch:
    """A batch of the topic `orders`, without records."""
    source = an_app().topic("orders")
    return Batch(
        source, partition, from_offset, until_offset, [], Cursor(), lambda record, error: None
    )
