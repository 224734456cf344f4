"""The stream jobs that ship."""
