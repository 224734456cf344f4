"""What can be set of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from streamapp.engine.error_policy import ErrorPolicy

__all__ = ["EngineSettings", "Guarantee"]


class Guarantee(StrEnum):
    """What holds for a record, its output and its state when something fails."""

    #: Output, state and offsets become visible together, once.
    EXACTLY_ONCE = "exactly_once"
    #: Output leaves before the transaction and may repeat; state is exact.
    AT_LEAST_ONCE = "at_least_once"
    #: Offsets are committed first; nothing is ever repeated, and a crash loses a batch.
    AT_MOST_ONCE = "at_most_once"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The engine's settings; durations are seconds, sizes bytes.

    Attributes:
        state_dir: where the workers of this host keep their stores.
        worker_name: a worker's identity; without one, the first free slot of the state directory.
        store_memory: what RocksDB may use for blocks and memtables, of all tasks together.
        idle_timeout: quiet time after which a caught-up partition no longer holds the watermark.
        max_record_bytes: the largest record where a topic's own limit is not known.
        offset_reset: where a topology begins that has no marker and no committed offsets.
        transaction_timeout: after which the broker aborts what a dead worker left open.
        commit_deadline: after which a commit's outcome counts as unknown.
        replication: of the topics that the engine makes; `-1` is the broker's default.
        trim_interval: between two rounds of deleting what was read of repartition topics.
        errors: what follows when an agent raises that has no policy of its own.
        backoff: the first and the longest pause between two tries to open a task.
        receiver_timeout: without a sign of life, after which another worker runs a receiver.
        standby_replicas: workers beside its own that follow each task's changelogs, ready to take over.
        acceptable_lag: how many changelog offsets a worker may be behind to be given a task at once;
            until then the task stays where its state is, and the worker warms up.
        snapshots: where copies of the tasks' stores go, any place that fsspec has a URL for; `None` for
            nowhere.
        snapshot_interval: between two copies of a store that changes.
        compression: of what the engine publishes: `None`, `gzip`, `snappy`, `lz4` or `zstd`.
    """

    guarantee: Guarantee = Guarantee.EXACTLY_ONCE
    state_dir: Path = Path(".streamapp/state")
    worker_name: str | None = None
    store_memory: int = 64 << 20
    idle_timeout: float = 30.0
    max_record_bytes: int = 1_000_000
    offset_reset: str = "earliest"
    transaction_timeout: float = 10.0
    commit_deadline: float = 30.0
    session_timeout: float = 10.0
    receiver_timeout: float = 6.0
    #: A rebalance begins with the next heartbeat of those that stay: what a worker had that leaves, waits for it.
    heartbeat_interval: float = 1.0
    rebalance_timeout: float = 60.0
    replication: int = -1
    compression: str | None = None
    trim_interval: float = 30.0
    errors: ErrorPolicy = field(default_factory=ErrorPolicy)
    backoff: tuple[float, float] = (0.1, 5.0)
    #: Tasks that open (fence and restore) at the same time.
    opening: int = 8
    standby_replicas: int = 0
    acceptable_lag: int = 10_000
    snapshots: str | None = None
    snapshot_interval: float = 600.0
    #: How long the ledger keeps its entries.
    ledger_retention: float = 7 * 24 * 3600.0
