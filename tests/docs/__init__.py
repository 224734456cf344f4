"""The documentation under test: its Python is executed, its commands and links are looked up."""
