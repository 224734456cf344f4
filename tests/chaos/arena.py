"""Where chaos happens: brokers behind proxies, workers, and a load that knows what it has published."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from streamapp.engine.marker import decode_entry
from tests.brokers import BrokerUnderTest, admin_client
from tests.chaos.proxy import GROUPS, Proxy
from tests.chaos.schedule import EXTRA, MORTAL, VETERAN, Fault, Kind
from tests.engine.jobs import Event
from tests.engine.oracle import make_events
from tests.engine.workers import Cluster, Worker, partition_of
from tests.kafka import KafkaCluster
from tests.polling import eventually

__all__ = ["SESSION", "TASKS", "Arena", "Holdings", "Load", "Stuck", "meddled"]

SESSION = 3.0
"""The workers' session timeout, in seconds."""

PARTITIONS = 4
TOPOLOGIES = ("count", "count_letters")
TASKS = PARTITIONS * len(TOPOLOGIES)
_STUCK = 120.0
_READY = 90.0
#: Checkpoints after which a task holds what it holds.
_SETTLED = 10
_BURST, _PACE = 10, 0.05
_DELIVERY_MS = 300_000
_OF_GROUPS = ("JoinGroup", "SyncGroup", "Heartbeat", "OffsetFetch", "FindCoordinator")


class Stuck(AssertionError):
    """Workers and brokers are there, and nothing is committed any more."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a process holds: resident bytes, connections and other open files."""

    resident: int
    connections: int
    files: int

    @staticmethod
    def of(pid: int) -> Holdings:
        """Read them from /proc."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        opened = []
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                opened.append(str(descriptor.readlink()))
        connections = sum(name.startswith("socket:") for name in opened)
        return Holdings(pages * 4096, connections, len(opened) - connections)


class Load:
    """Publishes events at a pace; `events` are those that the broker has confirmed, in order."""

    def __init__(self, bootstrap: str, topic: str, seed: int) -> None:
        self.events: list[Event] = []
        self._bootstrap = bootstrap
        self._topic = topic
        self._seed = seed
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id="load",
            enable_idempotence=True,
            # No broker is away for so long: the outcome of every event becomes known.
            request_timeout_ms=_DELIVERY_MS,
        )
        await self._producer.start()
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._enough.set()
        assert self._task is not None
        try:
            await self._task
        finally:
            await self._producer.stop()

    async def _go_on(self) -> None:
        while not self._enough.is_set():
            first = len(self.events)
            more = make_events(_BURST, self._seed + first, first)
            deliveries = [
                await self._producer.send(
                    self._topic,
                    msgspec.json.encode(event),
                    key=event.key.encode(),
                    partition=partition_of(event.key, PARTITIONS),
                )
                for event in more
            ]
            await asyncio.gather(*deliveries)
            self.events += more
            await asyncio.sleep(_PACE)


class Arena:
    """Brokers, proxies and workers of the counting application, and the faults that befall them.

    Args:
        directory: for everything that is written.
        brokers: 1 or 3.
        guarantee: the workers' processing guarantee.
        standbys: of each task.
    """

    def __init__(self, directory: Path, brokers: int, guarantee: str, standbys: int = 0) -> None:
        self.guarantee = guarantee
        self._standbys = standbys
        self.brokers = KafkaCluster(directory / "kafka", brokers=brokers)
        self.proxies = [
            Proxy(lambda server=server: server.port)  # type: ignore[misc]
            for server in self.brokers.servers
        ]
        self._directory = directory
        self._workers: dict[str, Worker] = {}
        self._frozen: list[Worker] = []
        self._mending: set[asyncio.Task[None]] = set()
        self._broker_lock = asyncio.Lock()
        self._progress: AIOKafkaConsumer | None = None

    # ------------------------------------------------------------------ its life

    async def __aenter__(self) -> Arena:
        for server, proxy in zip(self.brokers.servers, self.proxies, strict=True):
            await proxy.start()
            server.advertised_port = proxy.port
        bootstrap = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)
        self.kafka = BrokerUnderTest(bootstrap, "apache", GROUPS.removesuffix("app-"))
        await asyncio.to_thread(self.brokers.start)
        async with admin_client(bootstrap) as admin:
            await admin.create_topics(
                [NewTopic(self.kafka.topic("in"), PARTITIONS, len(self.proxies))]
            )
        self._cluster = Cluster(
            self.kafka,
            self.guarantee,
            self._directory,
            STREAMAPP_TEST_REPLICATION=str(len(self.proxies)),
            STREAMAPP_TEST_SESSION=str(SESSION),
            STREAMAPP_TEST_STANDBYS=str(self._standbys),
        )
        self._progress = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            client_id="progress",
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        await self._progress.start()
        self._start(VETERAN)
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._mending:
            task.cancel()
        await asyncio.gather(*self._mending, return_exceptions=True)
        self._cluster.stop()
        if self._progress is not None:
            await self._progress.stop()
        await asyncio.to_thread(self.brokers.destroy)
        for proxy in self.proxies:
            await proxy.close()

    def fill(self) -> None:
        """Give the veteran, who is alone at first, the company of the others."""
        for name in MORTAL:
            self._start(name)

    def _start(self, name: str) -> None:
        self._workers[name] = self._cluster.start(name=None if name == EXTRA else name)

    # ------------------------------------------------------------------ how it is doing

    async def checkpoints(self) -> int:
        """A number that grows with every checkpoint of the counting topology."""
        assert self._progress is not None
        topic = f"{self.kafka.prefix}app-count-ledger"
        ends = await self._progress.end_offsets(
            [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        )
        return sum(ends.values())

    async def progressed(self, by: int) -> None:
        """Wait until so many more checkpoints are committed.

        Raises:
            Stuck: they are not, for two minutes.
            AssertionError: a worker ended by itself.
        """
        goal: int | None = None
        deadline = time.monotonic() + _STUCK
        while True:
            self.check_workers()
            try:
                now = await asyncio.wait_for(self.checkpoints(), 5.0)
            except (KafkaError, TimeoutError):
                now = None
            if now is not None:
                goal = now + by if goal is None else goal
                if now >= goal:
                    return
            if time.monotonic() > deadline:
                raise Stuck(f"nothing was committed for {_STUCK:.0f} s\n{self.tails()}")
            await asyncio.sleep(0.05)

    async def everyone_at_work(self) -> None:
        """Wait until each worker has committed something from now on: none of them is stuck.

        Raises:
            Stuck: one has not, for two minutes.
        """
        await self._committed({(worker, "count"): 1 for worker in self._workers})

    async def _committed(self, due: Mapping[tuple[str, ...], int]) -> None:
        """Wait until these are so often among the checkpoints from now on: a worker and a topology, or a task too."""
        due = Counter(due)
        ledgers = {f"{self.kafka.prefix}app-{name}-ledger": name for name in TOPOLOGIES}
        partitions = [TopicPartition(ledger, p) for ledger in ledgers for p in range(PARTITIONS)]
        deadline = time.monotonic() + _STUCK
        async with AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap,
            client_id="progress",
            isolation_level="read_committed",
            enable_auto_commit=False,
        ) as consumer:
            consumer.assign(partitions)
            await consumer.seek_to_end(*partitions)
            while +due:
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    for record in records:
                        worker, topology = (
                            decode_entry(record.value, "an entry").worker,
                            ledgers[tp.topic],
                        )
                        due[worker, topology] -= 1
                        due[worker, topology, str(tp.partition)] -= 1
                if time.monotonic() > deadline:
                    raise Stuck(f"{dict(+due)} are not committed\n{self.tails()}")

    async def committed_all(self) -> bool:
        """Whether the group has committed up to the end of every source partition."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap,
            group_id=f"{self.kafka.prefix}app-count",
            enable_auto_commit=False,
        ) as consumer:
            sources = [TopicPartition(self.kafka.topic("in"), p) for p in range(PARTITIONS)]
            ends = await consumer.end_offsets(sources)
            return all([await consumer.committed(tp) == ends[tp] for tp in sources])

    def check_workers(self) -> None:
        """Raise `AssertionError` when a worker that should be running has ended."""
        for name, worker in self._workers.items():
            assert worker.running, f"worker {name} ended by itself:\n{worker.tail()}"

    def tails(self) -> str:
        """What each worker said last."""
        return "\n".join(
            f"--- {name}\n{worker.tail()[-3000:]}" for name, worker in self._workers.items()
        )

    async def veteran(self) -> Holdings:
        """What the worker that lives through everything holds while it is alone and has all tasks."""
        assert self._workers.keys() == {VETERAN}
        tasks = product([VETERAN], TOPOLOGIES, map(str, range(PARTITIONS)))
        await self._committed(dict.fromkeys(tasks, _SETTLED))
        return Holdings.of(self._workers[VETERAN].pid)

    @property
    def state(self) -> Path:
        """Where the workers' stores are."""
        return self._cluster.state

    # ------------------------------------------------------------------ faults

    async def strike(self, fault: Fault) -> bool:
        """Let a fault happen; what has to be mended later is mended in the background.

        Returns:
            Whether it could: a worker that is away cannot be killed, one that stands still not be stopped.
        """
        worker = self._workers.get(fault.target)
        match fault.kind:
            case Kind.KILL | Kind.LEAVE | Kind.FREEZE if worker is None:
                return False
            case Kind.LEAVE if not worker.ready:
                return False
            case Kind.KILL:
                del self._workers[fault.target]
                worker.kill()
                self._later(fault.lasts, self._bring_back, fault.target)
            case Kind.LEAVE:
                del self._workers[fault.target]
                worker.signal(signal.SIGTERM)
                self._later(fault.lasts, self._after_leaving, fault.target, worker)
            case Kind.FREEZE if worker in self._frozen:
                return False
            case Kind.FREEZE:
                self._frozen.append(worker)
                worker.signal(signal.SIGSTOP)
                self._later(fault.lasts, self._thaw, worker)
            case Kind.JOIN:
                if worker is not None:
                    return False
                self._start(EXTRA)
                self._later(fault.lasts, self._guest_leaves)
            case Kind.BROKER_KILL | Kind.BROKER_STOP:
                await self._strike_broker(fault)
            case Kind.DROP:
                self.proxies[int(fault.target)].drop_connections()
            case Kind.REFUSE:
                self.proxies[int(fault.target)].refuse(fault.api, fault.error, fault.times)
            case Kind.LOSE:
                self.proxies[int(fault.target)].lose_answers(fault.api, fault.times)
        return True

    def _later(self, seconds: float, mend: object, *arguments: object) -> None:
        async def mending() -> None:
            await asyncio.sleep(seconds)
            await mend(*arguments)  # type: ignore[operator]

        task = asyncio.create_task(mending())
        self._mending.add(task)
        task.add_done_callback(self._mended)

    def _mended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._mending.discard(task)

    async def _bring_back(self, name: str) -> None:
        self._start(name)

    async def _after_leaving(self, name: str, worker: Worker) -> None:
        code = await asyncio.to_thread(worker.wait)
        assert code == 0, f"worker {name} left with exit code {code}:\n{worker.tail()}"
        self._start(name)

    async def _guest_leaves(self) -> None:
        await eventually(lambda: self._workers[EXTRA].ready)
        worker = self._workers.pop(EXTRA)
        worker.signal(signal.SIGTERM)
        code = await asyncio.to_thread(worker.wait)
        assert code == 0, f"the guest left with exit code {code}:\n{worker.tail()}"

    async def _thaw(self, worker: Worker) -> None:
        self._frozen.remove(worker)
        if worker.running:
            worker.signal(signal.SIGCONT)

    async def _strike_broker(self, fault: Fault) -> None:
        # Of three brokers only one is away at a time: two are needed for every write.
        await self._broker_lock.acquire()
        server = self.brokers.servers[int(fault.target)]
        await asyncio.to_thread(server.kill if fault.kind is Kind.BROKER_KILL else server.stop)

        async def back() -> None:
            try:
                await asyncio.to_thread(server.start, _READY)
                await self._replicated()
            finally:
                self._broker_lock.release()

        self._later(fault.lasts, back)

    async def _replicated(self) -> None:
        """Wait until every partition has all of its replicas in sync again."""

        async def in_sync() -> bool:
            try:
                async with admin_client(self.kafka.bootstrap) as admin:
                    found = await admin.describe_topics()
            except (KafkaError, OSError):
                return False
            partitions = [partition for topic in found for partition in topic["partitions"]]
            return all(
                len(partition["isr"]) == len(partition["replicas"]) and partition["leader"] >= 0
                for partition in partitions
            )

        await eventually(in_sync, within=_READY)

    async def calm(self) -> int:
        """Mend everything that is broken, break nothing any more, and return how many faults nobody has met."""
        unmet = sum(proxy.calm() for proxy in self.proxies)
        while self._mending:
            await asyncio.gather(*self._mending)
        await eventually(lambda: all(worker.ready for worker in self._workers.values()))
        self.check_workers()
        return unmet

    async def leave(self, *stay: str) -> None:
        """SIGTERM every worker but those who stay, and see that each ends well."""
        workers = {name: self._workers.pop(name) for name in self._workers.keys() - set(stay)}
        for worker in workers.values():
            worker.signal(signal.SIGTERM)
        for name, worker in workers.items():
            code = await asyncio.to_thread(worker.wait)
            assert code == 0, f"worker {name} left with exit code {code}:\n{worker.tail()}"


def meddled(proxies: Sequence[Proxy]) -> str:
    """How much the proxies have done, for a report."""
    return (
        f"{sum(p.dropped for p in proxies)} connections reset, "
        f"{sum(p.refused.total() for p in proxies)} requests refused, "
        f"{sum(p.lost.total() for p in proxies)} answers lost, "
        f"{sum(p.refused[api] + p.lost[api] for p in proxies for api in _OF_GROUPS)} of these of groups"
    )
