"""The embedded broker: Kafka's protocol in one process, for a laptop and for tests."""
