"""What an agent's code finds without being handed it: the task that it runs in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamapp.engine.outbox import Outbox

__all__ = ["current_outbox"]

#: Where sends go while a batch agent is at work: into the transaction of its task.
current_outbox: ContextVar[Outbox | None] = ContextVar("streamapp-outbox", default=None)
