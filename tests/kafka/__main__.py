"""`make kafka` and `make kafka-stop`: one Apache Kafka that stays until it is stopped."""

from __future__ import annotations

import sys
import time

from tests.kafka.jars import STATE, KafkaUnavailable
from tests.kafka.shared import shared_server, stop_shared_server


def start() -> None:
    """Start Kafka on a free port, unless it is running, and print its address."""
    began = time.monotonic()
    bootstrap = shared_server(STATE)
    seconds = time.monotonic() - began
    log = STATE / "server" / "server.log"
    print(f"Apache Kafka answers after {seconds:.1f} s; its log is {log}")
    print(f"KAFKA_BOOTSTRAP={bootstrap}")


def stop() -> None:
    """Stop the Kafka that `start` started."""
    print("Apache Kafka stopped" if stop_shared_server(STATE) else "Apache Kafka was not running")


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
