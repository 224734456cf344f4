"""What a broker refuses for good, told apart from what passes.

Everything that is not a refusal is waited for: coordinators and leaders move, brokers restart,
partitions lack replicas, and all of it ends without help. A refusal is about what was asked: rights,
names, sizes, versions. A cluster that is being reconfigured may refuse for a moment what it takes in
the next, so only the same refusal several times running counts: see `Refusals`.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiokafka import errors

__all__ = ["Refusals", "causes", "remedy"]

_RIGHTS = "give the worker the right (kafka-acls.sh), and start it again"
_SIZE = (
    "raise max.message.bytes of the topic to what it was when the worker started, or start the worker again: it "
    "reads the limits then, and what is larger goes to the dead letters"
)
_GROUP = (
    "see that the name of the group is nobody else's, and that its session timeout is one that the brokers allow "
    "(group.min.session.timeout.ms, group.max.session.timeout.ms)"
)
_CREDENTIALS = "see to broker_credentials of the application"
_VERSION = "the broker does not know this request: the engine needs Kafka 2.1 or later"

#: What to do about each refusal; the codes that are not here pass.
_REMEDIES: dict[type[errors.KafkaError], str] = {
    errors.TopicAuthorizationFailedError: _RIGHTS,
    errors.GroupAuthorizationFailedError: _RIGHTS,
    errors.ClusterAuthorizationFailedError: _RIGHTS,
    errors.TransactionalIdAuthorizationFailed: _RIGHTS,
    errors.SaslAuthenticationFailed: _CREDENTIALS,
    errors.AuthenticationFailedError: _CREDENTIALS,
    errors.AuthenticationMethodNotSupported: _CREDENTIALS,
    errors.UnsupportedSaslMechanismError: _CREDENTIALS,
    errors.IllegalSaslStateError: _CREDENTIALS,
    errors.SecurityDisabled: _CREDENTIALS,
    errors.InvalidTopicError: "the topic's name is one that Kafka does not take: give it another",
    errors.MessageSizeTooLargeError: _SIZE,
    errors.RecordListTooLargeError: _SIZE,
    errors.InvalidTimestampError: (
        "a record's timestamp is further from the broker's clock than its topic takes: see that the clocks agree, or "
        "change message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic"
    ),
    errors.InvalidTransactionTimeout: (
        "lower transaction_timeout, or raise transaction.max.timeout.ms of the brokers"
    ),
    errors.InconsistentGroupProtocolError: _GROUP,
    errors.InvalidGroupIdError: _GROUP,
    errors.InvalidSessionTimeoutError: _GROUP,
    errors.InvalidRequiredAcksError: _VERSION,
    errors.UnsupportedVersionError: _VERSION,
    errors.UnsupportedForMessageFormatError: _VERSION,
    errors.IncompatibleBrokerVersion: _VERSION,
}
#: How often running the same thing has to be refused.
_MOST = 3


def remedy(error: BaseException) -> str | None:
    """Return what to do about an error that no retry mends, or `None` when it passes.

    An error of the engine's own counts as what caused it.
    """
    for cause in causes(error):
        for kind in type(cause).__mro__:
            if kind in _REMEDIES:
                return _REMEDIES[kind]
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on; an error that is among its own causes ends it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__


class Refusals:
    """Counts the refusals of one thing that is tried again and again."""

    def __init__(self) -> None:
        self._running = 0

    def passed(self) -> None:
        """It went well."""
        self._running = 0

    def final(self, error: BaseException) -> str | None:
        """Take note of a failure; return what to do once it was a refusal several times running."""
        found = remedy(error)
        self._running = 0 if found is None else self._running + 1
        return found if self._running >= _MOST else None
