"""Exactly-once stream processing on Kafka, written the way Faust is written."""
