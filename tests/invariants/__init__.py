"""The nine invariants of the engine: a test for each, and proof that each test can fail."""
