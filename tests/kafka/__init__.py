"""A real Apache Kafka for the tests: fetched with Maven, started as a process of our own.

`make kafka` runs one to try things out on; the `kafka` fixture shares one in a test session.
"""

from tests.kafka.jars import KafkaUnavailable, fetch_jars
from tests.kafka.server import KafkaCluster, KafkaServer

__all__ = ["KafkaCluster", "KafkaServer", "KafkaUnavailable", "fetch_jars"]
