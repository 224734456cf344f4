"""`make kafka` and `make kafka-stop`: one Apache Kafka that stays until it is stopped."""

from __future__ import annotations

import sys
import time

from tests.kafka.jars import STATE, KafkaUnavailable
from tests.kafka.server import KafkaServer, running_pid, stop_process

DIRECTORY = STATE / "server"
ADDRESS = DIRECTORY / "bootstrap"


def start() -> None:
    """Start Kafka on a free port, unless it is running, and print its address."""
    if running_pid(DIRECTORY) is None:
        began = time.monotonic()
        server = KafkaServer(DIRECTORY)
        # The port may be taken by now: a new configuration, with the data of last time gone.
        server.destroy()
        server.start()
        ADDRESS.write_text(server.bootstrap)
        seconds = time.monotonic() - began
        print(f"Apache Kafka answers after {seconds:.1f} s; its log is {server.log}")
    print(f"KAFKA_BOOTSTRAP={ADDRESS.read_text()}")


def stop() -> None:
    """Stop the Kafka that `start` started."""
    print("Apache Kafka stopped" if stop_process(DIRECTORY) else "Apache Kafka was not running")


def main() -> None:
    commands = {"start": start, "stop": stop}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit("usage: python -m tests.kafka start|stop")
    try:
        commands[sys.argv[1]]()
    except KafkaUnavailable as error:
        raise SystemExit(f"Apache Kafka cannot run here: {error}") from None


if __name__ == "__main__":
    main()
