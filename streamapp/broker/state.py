"""All that the broker knows, and the one way to change it: journal an event, then apply it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import uuid4

from . import events
from .configs import validate
from .events import AnyEvent
from .faults import Faults
from .groups import Groups
from .log import PartitionLog, Usage
from .offsets import Offsets
from .topics import Topics
from .transactions import Transaction, Transactions

log = logging.getLogger(__name__)

#: The id of the only node there is.
NODE_ID: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What may be set on a broker. Sizes are bytes, durations as their names say."""

    auto_create: bool = False
    default_partitions: int = 1
    #: A larger record batch is refused, unless its topic's `max.message.bytes` allows it.
    message_max_bytes: int = 1_048_588
    #: A larger request closes its connection.
    max_request_bytes: int = 104_857_600
    max_connections: int = 1_000
    #: What all connections may have sent that is not yet a whole request.
    max_pending_bytes: int = 512 << 20
    fetch_max_bytes: int = 57_671_680
    #: What all logs may hold together in memory; beyond it Produce gets POLICY_VIOLATION.
    max_log_bytes: int = 1 << 30
    min_session_timeout_ms: int = 100
    initial_rebalance_delay_ms: int = 0
    #: How often retention and compaction look at the logs.
    cleanup_interval_seconds: float = 5.0
    #: A producer that wrote nothing for so long is forgotten by its partitions.
    producer_expiration_ms: int = 86_400_000
    #: Make each acknowledged write survive a power cut too, not just a killed process.
    fsync: bool = False
    #: Defaults for topic configurations, by their Kafka names.
    topic_defaults: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.topic_defaults.items():
            validate(name, value)
        self.topic_defaults.setdefault("max.message.bytes", str(self.message_max_bytes))


class Journal(Protocol):
    """Where events go before they are applied, and where logs are kept."""

    def append(self, data: bytes) -> None:
        """Keep an event; a killed process does not lose it any more."""

    def open_log(self, state: State, topic_id: int, name: str, partition: int) -> PartitionLog:
        """The log of a partition."""


class State:
    """Topics, transactions, offsets and groups, and what one's change means to the others."""

    def __init__(
        self,
        config: BrokerConfig,
        *,
        now: Callable[[], int],
        wake: Callable[[int], None],
        journal: Journal | None,
    ) -> None:
        self.config = config
        self.now = now
        self.host = ""
        self.port = 0
        self.faults = Faults()
        self.usage = Usage()
        self.in_memory = journal is None
        self.cluster_id = uuid4().hex[:22]
        self.journal = journal
        self._wake = wake
        self.topics = Topics(self._open_log, config.topic_defaults)
        self.transactions = Transactions(self.record)
        self.offsets = Offsets()
        self.groups = Groups(
            self.record,
            now,
            wake,
            min_session_ms=config.min_session_timeout_ms,
            initial_delay_ms=config.initial_rebalance_delay_ms,
        )

    def _open_log(self, topic_id: int, name: str, partition: int) -> PartitionLog:
        if self.journal is None:
            return PartitionLog(name, partition, usage=self.usage)
        return self.journal.open_log(self, topic_id, name, partition)

    def record(self, event: AnyEvent) -> None:
        """Journal what happens, then let it happen."""
        if self.journal is not None:
            self.journal.append(events.encode(event))
        if not isinstance(event, events.GroupSaved):  # the group is as it says already
            self.apply(event)

    def apply(self, event: AnyEvent, *, replaying: bool = False) -> None:
        """Let an event happen. When it is replayed, markers come later (`mend`)."""
        match event:
            case events.OffsetsCommitted():
                self.offsets.committed(event)
            case events.OffsetsPending():
                self.offsets.pending(event)
            case events.TransactionGrew():
                self._wake(self.transactions.grew(event))
            case events.TransactionEnded():
                self._transaction_ended(event, replaying=replaying)
            case events.TransactionalIdSet():
                self.transactions.id_set(event)
            case events.ProducerIdsGiven():
                self.transactions.ids_given(event)
            case events.TopicCreated():
                self.topics.created(event)
            case events.TopicDeleted():
                self.topics.deleted(event)
                self.transactions.topic_deleted(event.name)
                self.offsets.topic_deleted(event.name)
            case events.PartitionsAdded():
                self.topics.grown(event)
            case events.ConfigsSet():
                self.topics.configured(event)
            case events.LogTrimmed():
                self.topics.trimmed(event)
            case events.LogCleaned():
                self.topics.cleaned(event)
            case events.OffsetsDeleted():
                self.offsets.deleted(event)
            case events.GroupDeleted():
                self.groups.deleted(event)
                self.offsets.group_deleted(event)
            case events.GroupSaved():
                self.groups.saved(event)
            case events.Began():
                self.cluster_id = event.cluster_id

    def _transaction_ended(self, event: events.TransactionEnded, *, replaying: bool) -> None:
        producer_id, partitions = self.transactions.ended(event)
        self.offsets.transaction_ended(producer_id, committed=event.committed)
        if replaying:
            return
        now = self.now()
        for topic, partition in sorted(partitions):
            found = self.topics.get(topic)
            if found is not None and partition < len(found.logs):
                found.logs[partition].append_marker(
                    producer_id, event.epoch, now, commit=event.committed
                )

    def mend(self) -> None:
        """Write the markers that a crash or a full disk has kept from being written."""
        for each in self.topics.logs():
            for producer_id in list(each.open):
                transaction = self.transactions.of_producer(producer_id)
                if transaction is None or not self._takes_part(transaction, each):
                    commit = transaction is not None and transaction.committed is True
                    epoch = 0 if transaction is None else transaction.epoch
                    offset = each.append_marker(producer_id, epoch, self.now(), commit=commit)
                    log.info(
                        "%s:%d: wrote the %s marker of producer %d at %d, which was missing",
                        each.topic,
                        each.partition,
                        "commit" if commit else "abort",
                        producer_id,
                        offset,
                    )

    @staticmethod
    def _takes_part(transaction: Transaction, each: PartitionLog) -> bool:
        return transaction.is_open and (each.topic, each.partition) in transaction.partitions

    def expire(self) -> None:
        """Do what is due by the clock."""
        now = self.now()
        for transaction in self.transactions.expired(now):
            log.info("transaction %r took too long: aborted", transaction.transactional_id)
            self.transactions.abort(transaction)
        self.groups.expire(now)

    def next_deadline(self) -> int | None:
        """When `expire` has something to do next, in milliseconds of the wall clock."""
        due = (self.transactions.next_deadline(), self.groups.next_deadline())
        return min((each for each in due if each is not None), default=None)

    def snapshot(self) -> Iterator[AnyEvent]:
        """The shortest list of events that leads to this state."""
        yield events.Began(events.FORMAT, self.cluster_id)
        yield from self.topics.snapshot()
        yield from self.transactions.snapshot()
        yield from self.offsets.snapshot()
        yield from self.groups.snapshot()
