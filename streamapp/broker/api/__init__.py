"""The APIs: each handler turns a decoded request into an answer.

A handler takes the state, the request and who called; it returns the fields of the answer, or an
encoded body, or None for no answer, or an awaitable of one of these when the answer has to wait. A
refusal makes the answer that says one error code about everything that was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from ..errors import ErrorCode
from ..protocol import Answer, Body, Call, Request
from ..state import State
from . import admin, cluster, configs, fetch, groups, logs, offsets, produce, transactions

Response = Answer | Body | None
Handler = Callable[[State, Request, Call], Response | Awaitable[Response]]
Refusal = Callable[[Request, ErrorCode], Answer]

_MODULES = (admin, cluster, configs, fetch, groups, logs, offsets, produce, transactions)

HANDLERS: Final[Mapping[str, Handler]] = {
    name: handler for module in _MODULES for name, handler in module.HANDLERS.items()
}
REFUSALS: Final[Mapping[str, Refusal]] = {
    name: refusal for module in _MODULES for name, refusal in module.REFUSALS.items()
}
