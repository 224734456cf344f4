"""Testing agents without a broker."""
