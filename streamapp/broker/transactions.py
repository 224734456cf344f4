"""The transaction coordinator (KIP-98, KIP-360): who owns a transactional id, and what is open.

A transaction's end is one event in the journal. The markers on its partitions and the offsets of
its groups follow from that event, at once, or when the journal is replayed after a crash: nobody
ever sees half of a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from .errors import ErrorCode, Refused
from .events import (
    AnyEvent,
    ProducerIdsGiven,
    TopicPartition,
    TransactionalIdSet,
    TransactionEnded,
    TransactionGrew,
)

#: Kafka's `transaction.max.timeout.ms`.
MAX_TIMEOUT_MS: Final = 900_000
#: The epoch is an int16; the last one is for fencing alone, then a new producer id begins.
_LAST_EPOCH: Final = 32_766
#: Producer ids are journalled in blocks, so that most need no event of their own.
_BLOCK: Final = 1_000


@dataclass(slots=True)
class Transaction:
    """A transactional id and its transaction, open or ended."""

    transactional_id: str
    producer_id: int
    epoch: int
    timeout_ms: int
    #: The outcome of the last transaction, None while there was none in this epoch.
    committed: bool | None = None
    started_ms: int | None = None
    partitions: set[TopicPartition] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        return self.started_ms is not None

    @property
    def deadline_ms(self) -> int | None:
        """When the transaction is aborted for taking too long."""
        return None if self.started_ms is None else self.started_ms + self.timeout_ms


class Transactions:
    """All transactional ids. `record` journals an event and has it applied before it returns."""

    def __init__(self, record: Callable[[AnyEvent], None]) -> None:
        self._record = record
        self._by_id: dict[str, Transaction] = {}
        self._by_producer: dict[int, Transaction] = {}
        self._next_producer_id = 0
        self._given_until = 0

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self._by_id.values())

    def of_producer(self, producer_id: int) -> Transaction | None:
        """The transactional id that a producer id belongs to."""
        return self._by_producer.get(producer_id)

    def new_producer_id(self) -> int:
        """A producer id that nobody ever had."""
        if self._next_producer_id >= self._given_until:
            self._record(ProducerIdsGiven(self._next_producer_id + _BLOCK))
        self._next_producer_id += 1
        return self._next_producer_id - 1

    # -- what clients ask ----------------------------------------------------------------------

    def start(
        self, transactional_id: str, timeout_ms: int, *, producer_id: int = -1, epoch: int = -1
    ) -> tuple[int, int]:
        """InitProducerId: fence whoever held the id, abort what it left open.

        Returns producer id and epoch. A producer that names its own (KIP-360) wants its epoch
        raised, and is fenced when another one has taken over since.
        """
        if not transactional_id:
            raise Refused(ErrorCode.invalid_request, "the transactional id is empty")
        if not 0 < timeout_ms <= MAX_TIMEOUT_MS:
            raise Refused(
                ErrorCode.invalid_transaction_timeout,
                f"a transaction may take 1 to {MAX_TIMEOUT_MS} ms, not {timeout_ms}",
            )
        known = self._by_id.get(transactional_id)
        if known is None:
            fresh = self.new_producer_id()
            self._record(TransactionalIdSet(transactional_id, fresh, 0, timeout_ms))
            return fresh, 0
        if producer_id >= 0 and (known.producer_id, known.epoch) != (producer_id, epoch):
            raise Refused(ErrorCode.producer_fenced, f"{transactional_id!r} has a new owner")
        if known.is_open:
            self.abort(known)
        if known.epoch >= _LAST_EPOCH:
            owner, next_epoch = self.new_producer_id(), 0
        else:
            owner, next_epoch = known.producer_id, known.epoch + 1
        self._record(TransactionalIdSet(transactional_id, owner, next_epoch, timeout_ms))
        return owner, next_epoch

    def check(self, transactional_id: str, producer_id: int, epoch: int) -> Transaction:
        """The transactional id's state, if this producer owns it; else `Refused`."""
        known = self._by_id.get(transactional_id)
        if known is None or known.producer_id != producer_id:
            raise Refused(
                ErrorCode.invalid_producer_id_mapping,
                f"producer {producer_id} does not belong to {transactional_id!r}",
            )
        if known.epoch != epoch:
            raise Refused(
                ErrorCode.producer_fenced,
                f"{transactional_id!r} is in epoch {known.epoch}, not {epoch}",
            )
        return known

    def grow(
        self,
        transaction: Transaction,
        now: int,
        *,
        partitions: Iterable[TopicPartition] = (),
        group: str | None = None,
    ) -> None:
        """Have partitions or a group take part; the first to do so opens the transaction."""
        fresh = [each for each in partitions if each not in transaction.partitions]
        groups = [] if group is None or group in transaction.groups else [group]
        if fresh or groups or not transaction.is_open:
            started = now if transaction.started_ms is None else transaction.started_ms
            self._record(TransactionGrew(transaction.transactional_id, started, fresh, groups))

    def check_batch(self, producer_id: int, epoch: int, partition: TopicPartition) -> None:
        """Raises `Refused` unless the partition takes part in the producer's transaction."""
        transaction = self._by_producer.get(producer_id)
        if transaction is None:
            raise Refused(
                ErrorCode.invalid_producer_id_mapping, f"producer {producer_id} is not known"
            )
        if epoch != transaction.epoch or transaction.producer_id != producer_id:
            raise Refused(
                ErrorCode.invalid_producer_epoch,
                f"{transaction.transactional_id!r} is in epoch {transaction.epoch}, not {epoch}",
            )
        if partition not in transaction.partitions:
            raise Refused(
                ErrorCode.invalid_txn_state,
                f"{partition[0]}:{partition[1]} was not added to the transaction",
            )

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        """EndTxn: commit or abort. Said twice, it is done once."""
        if transaction.is_open:
            self._record(TransactionEnded(transaction.transactional_id, commit, transaction.epoch))
        elif transaction.committed is not commit:
            raise Refused(
                ErrorCode.invalid_txn_state,
                f"{transaction.transactional_id!r} has no transaction open",
            )

    def abort(self, transaction: Transaction) -> None:
        """Abort what is open and fence its producer, as on a timeout."""
        epoch = min(transaction.epoch + 1, _LAST_EPOCH + 1)
        self._record(TransactionEnded(transaction.transactional_id, False, epoch))

    def expired(self, now: int) -> list[Transaction]:
        """The open transactions that have taken too long."""
        return [each for each in self if (each.deadline_ms or now + 1) <= now]

    def next_deadline(self) -> int | None:
        """When the next open transaction will have taken too long."""
        return min(
            (each.deadline_ms for each in self if each.deadline_ms is not None), default=None
        )

    # -- events --------------------------------------------------------------------------------

    def ids_given(self, event: ProducerIdsGiven) -> None:
        # Replayed, this skips what is left of a block: an id is never given twice.
        self._next_producer_id = max(self._next_producer_id, self._given_until)
        self._given_until = event.until

    def skip_given(self) -> None:
        """After a replay: the ids of the last block may be in use."""
        self._next_producer_id = self._given_until

    def id_set(self, event: TransactionalIdSet) -> None:
        before = self._by_id.get(event.transactional_id)
        if before is not None and before.producer_id != event.producer_id:
            del self._by_producer[before.producer_id]
        fresh = Transaction(
            event.transactional_id,
            event.producer_id,
            event.epoch,
            event.timeout_ms,
            event.committed,
        )
        self._by_id[event.transactional_id] = fresh
        self._by_producer[event.producer_id] = fresh

    def grew(self, event: TransactionGrew) -> int:
        """Apply; returns when the transaction has to have ended."""
        transaction = self._by_id[event.transactional_id]
        transaction.started_ms = event.started_ms
        transaction.partitions.update(event.partitions)
        transaction.groups.update(event.groups)
        return event.started_ms + transaction.timeout_ms

    def ended(self, event: TransactionEnded) -> tuple[int, set[TopicPartition]]:
        """Apply; returns the producer id and the partitions that the markers belong on."""
        transaction = self._by_id[event.transactional_id]
        partitions = transaction.partitions
        transaction.partitions = set()
        transaction.groups = set()
        transaction.started_ms = None
        transaction.committed = event.committed
        transaction.epoch = event.epoch
        return transaction.producer_id, partitions

    def topic_deleted(self, topic: str) -> None:
        """A topic's partitions take part in nothing any more."""
        for each in self:
            each.partitions = {key for key in each.partitions if key[0] != topic}

    def snapshot(self) -> Iterator[ProducerIdsGiven | TransactionalIdSet | TransactionGrew]:
        """The events that lead to the transactions as they are."""
        yield ProducerIdsGiven(self._given_until)
        for each in self:
            yield TransactionalIdSet(
                each.transactional_id, each.producer_id, each.epoch, each.timeout_ms, each.committed
            )
            if each.started_ms is not None:
                yield TransactionGrew(
                    each.transactional_id,
                    each.started_ms,
                    sorted(each.partitions),
                    sorted(each.groups),
                )
