"""What can go wrong between an outside source and its topic."""

from streamapp.errors import StreamappError

__all__ = [
    "BrokerUnavailable",
    "OwnershipLost",
    "PositionError",
    "PublishError",
    "SourceError",
    "TakenOver",
]


class BrokerUnavailable(StreamappError):
    """No broker answers, or none has let a transaction through for as long as we are patient."""

    def __init__(self, bootstrap: object, reason: object = "") -> None:
        because = f" ({reason!r})" if reason else ""
        port = str(bootstrap).rpartition(":")[2]
        super().__init__(
            f"no Kafka broker answers at {bootstrap}{because}. Check the address (--bootstrap), or"
            f" start a broker here: streamapp broker --port {port}"
        )
        self.bootstrap = str(bootstrap)


class PublishError(StreamappError):
    """The broker refuses what is published, and would refuse it again."""


class TakenOver(StreamappError):
    """Another process has started under the same name: it publishes now, and this one must not."""

    def __init__(self, topic: str, name: str) -> None:
        super().__init__(
            f"another process has taken over receiver {name!r} of topic {topic!r}: this one stops,"
            " and what it had not committed the other one publishes. If both are wanted, give them"
            " different names (--name)"
        )


class OwnershipLost(StreamappError):
    """The group has given a receiver to another process."""

    def __init__(self, topic: str, name: str) -> None:
        super().__init__(
            f"receiver {name!r} of topic {topic!r} was given to another process: this one waits for"
            " its next turn"
        )


class PositionError(StreamappError):
    """A committed position cannot be used: of an unknown version, or not of this kind of source."""


class SourceError(StreamappError):
    """The outside source cannot be read."""
