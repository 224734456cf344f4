"""The errors that streamapp raises: every one says what was wrong, where, and what to do.

A package with errors of its own derives them from `StreamappError`, so that one `except` catches
whatever the project raises on purpose.
"""

__all__ = [
    "AgentError",
    "AgentFailed",
    "AgentStopped",
    "BatchEnded",
    "ConfigurationError",
    "DamagedStoreError",
    "DecodeError",
    "ForeignStoreError",
    "FullDiskError",
    "RecordError",
    "SinkError",
    "StoreError",
    "StreamappError",
    "TableError",
    "TaskClosed",
    "TopicError",
    "TransactionTimedOut",
]


class StreamappError(Exception):
    """The base of every error that the project raises on purpose."""


class DecodeError(StreamappError):
    """A record's bytes are not what its topic's codec expects.

    The message names the part that is wrong and shows it; whoever holds the record adds its topic,
    partition and offset.
    """


class ConfigurationError(StreamappError):
    """The application is declared in a way that cannot work; the message says what to change."""


class TopicError(StreamappError):
    """A topic is not as the application needs it; the message has the command that mends it."""


class StoreError(StreamappError):
    """A state store cannot be used: held by another process, foreign, or of another format."""


class ForeignStoreError(StoreError):
    """A state store belongs to something else: another application, topology, partition or cluster."""


class DamagedStoreError(StoreError):
    """What a state store has on disk is not what was written: it is rebuilt from its changelogs."""


class FullDiskError(StoreError):
    """A state store has no room: it is opened again, and brought up to date, once there is some."""


class TableError(StreamappError):
    """A table is used where or how it cannot be."""


class RecordError(StreamappError):
    """A record cannot be published: it is over a limit, or of a type that its topic does not take."""


class SinkError(StreamappError):
    """An outside system cannot take a batch: it has another one that overlaps it or comes after it."""


class AgentError(StreamappError):
    """An agent ended in a way that is no error of its own code."""


class BatchEnded(StreamappError):
    """Something that an agent started outlived its batch, and used a table or sent a record then."""


class AgentFailed(StreamappError):
    """A batch agent raised what its error policy escalates; the cause is what it raised."""


class AgentStopped(StreamappError):
    """A batch agent raised what stops its task by its error policy; the cause is what it raised."""


class TaskClosed(StreamappError):
    """A task lost its place (fenced, revoked, an unknown outcome): what it had is dropped."""


class TransactionTimedOut(TaskClosed):
    """A transaction took longer than the broker lets one be open."""
