"""Chaos: workers on Apache Kafka under a seeded mix of faults, and an oracle that nothing may escape."""
