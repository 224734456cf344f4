"""From the outside world into Kafka."""
