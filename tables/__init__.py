"""The state that the application's jobs keep."""
