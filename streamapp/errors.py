"""The errors that streamapp raises: every one says what was wrong, where, and what to do.

A package with errors of its own derives them from `StreamappError`, so that one `except` catches
whatever the project raises on purpose.
"""

__all__ = ["DecodeError", "StreamappError"]


class StreamappError(Exception):
    """The base of every error that the project raises on purpose."""


class DecodeError(StreamappError):
    """A record's bytes are not what its topic's codec expects.

    The message names the part that is wrong and shows it; whoever holds the record adds its topic,
    partition and offset.
    """
