"""What follows when an agent raises: a directive by the type of the exception.

    @app.batch_agent(orders, errors={LookupError: OnError.SKIP_RECORD, ConnectionError: OnError.RETRY})

Whatever follows, the batch was taken back first: its transaction was not committed, and nothing that
it wrote or sent is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aiokafka.errors import KafkaError

from streamapp.errors import AgentError, BatchEnded, ConfigurationError, StoreError
from streamapp.supervision import Backoff, Budget, listed_for

__all__ = ["ErrorPolicy", "OnError"]


class OnError(StrEnum):
    """What to do about an exception in a batch agent."""

    #: Pause, and process the same batch again; after so many attempts, what the policy says `then`.
    RETRY = "retry"
    #: Find the record that is to blame and send it to the dead letters; the others take effect.
    SKIP_RECORD = "skip_record"
    #: Send all records of the batch to the dead letters.
    SKIP_BATCH = "skip_batch"
    #: Let go of the task, and open it anew from its last checkpoint.
    RESTART = "restart"
    #: Stop this task on this worker; the worker's other tasks go on.
    STOP = "stop"
    #: End the worker, with a message that says where it was.
    ESCALATE = "escalate"


#: From what costs a record to what ends the worker.
_SCOPE: Final = (
    OnError.SKIP_RECORD,
    OnError.SKIP_BATCH,
    OnError.RETRY,
    OnError.RESTART,
    OnError.STOP,
    OnError.ESCALATE,
)

#: What holds where a policy does not list a type itself.
_BUILT_IN: Final[Mapping[type[Exception], OnError]] = {
    # The network, a name, a disk that is full: these pass, and no record is to blame …
    OSError: OnError.RETRY,
    KafkaError: OnError.RETRY,
    AgentError: OnError.RETRY,
    # … but a record may well name a file that is not there.
    FileNotFoundError: OnError.SKIP_RECORD,
    FileExistsError: OnError.SKIP_RECORD,
    IsADirectoryError: OnError.SKIP_RECORD,
    NotADirectoryError: OnError.SKIP_RECORD,
    PermissionError: OnError.SKIP_RECORD,
    # These hold for every record.
    ConfigurationError: OnError.ESCALATE,
    BatchEnded: OnError.ESCALATE,
    StoreError: OnError.ESCALATE,
}


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """Which directive follows from which exception, and how often.

    What passes by itself (`OSError` but for files and permissions, `KafkaError`) is retried, a
    misdeclared application or a broken store ends the worker, and everything else costs the record
    that is to blame; `directives` and `default` change that.

    Attributes:
        directives: by exception type; of several that fit, the most specific one holds.
        default: for every other `Exception`.
        attempts: how often a batch is tried under `OnError.RETRY`, the first time included.
        then: what follows when it has failed so often; not `OnError.RETRY`.
        backoff: how long to pause between two attempts.
        skips: how many records or batches may be skipped; the next one escalates. A bug that fails
            for every record must not empty a topic into the dead letters.
        restarts: how often the task may be restarted; the next time escalates.

    Both budgets are those of one task.

    Raises:
        ConfigurationError: no attempt is allowed, or `then` is to retry.
    """

    directives: Mapping[type[Exception], OnError] = field(default_factory=dict)
    default: OnError = OnError.SKIP_RECORD
    attempts: int = 10
    then: OnError = OnError.ESCALATE
    backoff: Backoff = field(default_factory=Backoff)
    skips: Budget = field(default_factory=lambda: Budget(100, 60.0))
    restarts: Budget = field(default_factory=lambda: Budget(10, 60.0))

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError("an error policy has attempts of at least 1")
        if self.then is OnError.RETRY:
            raise ConfigurationError(
                "what an error policy does after its last attempt (then=…) is not to retry"
            )

    def directive(self, error: Exception) -> OnError:
        """What holds for an exception; of a group (`asyncio.TaskGroup`), for what is in it.

        Where those differ, whatever concerns more than a record goes first: when it has passed, the
        others are still there.
        """
        listed = {**_BUILT_IN, **self.directives}
        if isinstance(error, ExceptionGroup) and not any(
            issubclass(kind, ExceptionGroup) and isinstance(error, kind) for kind in listed
        ):
            return max(map(self.directive, error.exceptions), key=_SCOPE.index)
        return listed_for(error, listed, self.default)

    @classmethod
    def of(cls, errors: ErrorPolicy | Mapping[type[Exception], OnError]) -> ErrorPolicy:
        """Return a policy as it is, or directives as a policy that is otherwise the usual one."""
        return errors if isinstance(errors, ErrorPolicy) else cls(errors)
