"""Apache Kafka as processes of our own, in KRaft mode: start, stop, kill, restart.

A server keeps its port and its data over a restart, so a test can take the broker away from
under its clients and give it back. Settings favour quick tests: groups rebalance at once,
internal topics have one partition, timed out transactions and compaction are looked at often.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.jars import HERE, KafkaUnavailable, fetch_jars

HOST = "127.0.0.1"

_QUICK_SETTINGS = {
    "auto.create.topics.enable": "false",
    # A killed server may register again when the controller has given the old process up.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "log.initial.task.delay.ms": "500",
    "log.cleaner.backoff.ms": "200",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "100",
    "log.index.size.max.bytes": "1048576",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
_QUICK_JAVA = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]


class KafkaServer:
    """One Kafka process: a broker that is its own controller, or one of a cluster's.

    directory: where its configuration, log and data live; made if need be.
    heap: as Java writes it, for example "512m".
    settings: server properties that override the ones for quick tests.
    """

    def __init__(
        self,
        directory: Path,
        *,
        heap: str = "512m",
        settings: Mapping[str, str] | None = None,
        node_id: int = 1,
        cluster_id: str | None = None,
    ) -> None:
        self.directory = directory
        self.node_id = node_id
        self.port = free_port()
        self.controller_port = free_port()
        #: Where clients are told to connect, when something stands before the server.
        self.advertised_port: int | None = None
        self.voters = f"{node_id}@{HOST}:{self.controller_port}"
        self._heap = heap
        self._settings = dict(settings or {})
        self._cluster_id = cluster_id or new_cluster_id()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address that clients connect to."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, or None when the server is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log(self) -> Path:
        """The file with the server's log."""
        return self.directory / "server.log"

    def start(self, timeout: float = 60.0) -> None:
        """Start the server and return when it answers clients.

        Raises `KafkaUnavailable` when it stops or has not answered after `timeout` seconds.
        """
        self.launch()
        self.wait_ready(timeout)

    def launch(self) -> None:
        """Start the process, without waiting until it answers."""
        if self.pid is not None:
            raise RuntimeError(f"Kafka is running already, as process {self.pid}")
        jars = fetch_jars()
        self.directory.mkdir(parents=True, exist_ok=True)
        java = ["java", f"-Xmx{self._heap}", *_QUICK_JAVA, "-cp", f"{jars}/*"]
        java.append(f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}")
        properties = self.directory / "server.properties"
        with self.log.open("ab") as log:
            if not properties.exists():
                properties.write_text(self._properties())
                tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id]
                command = [*java, *tool, "-c", str(properties)]
                if subprocess.run(command, stdout=log, stderr=log).returncode != 0:
                    properties.unlink()
                    raise KafkaUnavailable(self._with_log("formatting Kafka's storage failed"))
            # In a session of its own, a Ctrl-C reaches the tests first and they stop it in order.
            with (self.directory / "pid").open("w") as pid:
                fcntl.flock(pid, fcntl.LOCK_EX)
                self._process = subprocess.Popen(
                    [*java, "kafka.Kafka", str(properties)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[pid.fileno()],
                )
                pid.write(str(self._process.pid))

    def wait_ready(self, timeout: float = 60.0, *, brokers: int = 1) -> None:
        """Return when this server answers and knows of that many brokers."""
        deadline = time.monotonic() + timeout
        while not answers(self.bootstrap, brokers=brokers):
            if self.pid is None:
                raise KafkaUnavailable(self._with_log("Kafka stopped while starting"))
            if time.monotonic() > deadline:
                self.kill()
                raise KafkaUnavailable(self._with_log(f"Kafka did not answer in {timeout:g} s"))

    def configure(self, *arguments: str) -> None:
        """Run Kafka's own `kafka-configs` against the server."""
        command = ["java", *_QUICK_JAVA, "-cp", f"{fetch_jars()}/*", "kafka.admin.ConfigCommand"]
        subprocess.run(
            [*command, "--bootstrap-server", self.bootstrap, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def stop(self, timeout: float = 20.0) -> None:
        """Shut down in order; after `timeout` seconds, kill. Nothing happens if not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """Stop as `kill -9` does: no shut-down, no flush. Nothing happens if not running."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self, timeout: float = 60.0) -> None:
        """Start again on the same port and data; shuts down first if it is running."""
        self.stop()
        self.start(timeout)

    def destroy(self) -> None:
        """Kill the server and remove its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> KafkaServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None
        (self.directory / "pid").unlink(missing_ok=True)

    def _with_log(self, message: str) -> str:
        """The message, and what the server said last; its log may be gone when this is read."""
        lines = self.log.read_text(errors="replace").splitlines()
        return f"{message}; its log {self.log} ends: {lines[-1] if lines else '(empty)'}"

    def _properties(self) -> str:
        voters = self.voters.split(",")
        replicas, in_sync = str(len(voters)), str(min(2, len(voters)))
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": self.voters,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.advertised_port or self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            **_QUICK_SETTINGS,
            **self._settings,
        }
        return "".join(f"{name}={value}\n" for name, value in properties.items())


class KafkaCluster:
    """Several Kafka processes that replicate each other's topics.

    Topics have as many replicas as there are brokers, and need two of them in sync.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 3,
        heap: str = "384m",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        cluster_id = new_cluster_id()
        self.servers: Sequence[KafkaServer] = [
            KafkaServer(
                directory / f"broker-{node_id}",
                heap=heap,
                settings=settings,
                node_id=node_id,
                cluster_id=cluster_id,
            )
            for node_id in range(1, brokers + 1)
        ]
        voters = ",".join(server.voters for server in self.servers)
        for server in self.servers:
            server.voters = voters
        self.directory = directory

    @property
    def bootstrap(self) -> str:
        """The addresses of all brokers, joined by commas."""
        return ",".join(server.bootstrap for server in self.servers)

    def start(self, timeout: float = 90.0) -> None:
        """Start all brokers and return when each knows of all the others."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready(timeout, brokers=len(self.servers))

    def destroy(self) -> None:
        """Kill all brokers and remove their data."""
        for server in self.servers:
            server.destroy()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> KafkaCluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()


def answers(bootstrap: str, *, brokers: int = 1, timeout: float = 1.0) -> bool:
    """Whether a broker at this address answers within `timeout` seconds and knows `brokers`."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout).close()
    except OSError:
        time.sleep(0.05)
        return False
    quiet = logging.getLogger("tests.kafka.probe")
    quiet.disabled = True
    client = AdminClient({"bootstrap.servers": bootstrap}, logger=quiet)
    try:
        return len(client.list_topics(timeout=timeout).brokers) >= brokers
    except KafkaException:
        return False


def stop_process(directory: Path, timeout: float = 20.0) -> bool:
    """Stop the server that another process started in this directory; whether there was one.

    It has `timeout` seconds to shut down in order, and is killed then; at once when that is 0.
    """
    pid = running_pid(directory)
    if pid is None:
        return False
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM if timeout > 0 else signal.SIGKILL)
        while running_pid(directory) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    return True


def running_pid(directory: Path) -> int | None:
    """The process id of the server in this directory, whoever started it; None if not running.

    A running server holds a lock on the file with its id, so an id that was given to another
    process since is never mistaken for it.
    """
    try:
        with (directory / "pid").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except FileNotFoundError:
        pass
    return None


def free_port() -> int:
    """A port that nothing listens on, and that no outgoing connection will be given.

    Systems give outgoing connections ports from 32768 upwards; there, a client that tries to
    reach a stopped server could take the server's port, or connect to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def new_cluster_id() -> str:
    """A cluster id as Kafka writes it: 16 bytes in URL-safe base64, not an option's dash first."""
    while (name := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return name
