"""State stores, tables, aggregations, windows and event time."""
