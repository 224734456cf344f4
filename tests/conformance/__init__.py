"""What the project expects of a broker, as tests that run on the embedded one and on Kafka."""
