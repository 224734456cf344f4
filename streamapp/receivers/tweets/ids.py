"""Time in a tweet's id: a snowflake, milliseconds since 2010 above 22 bits of sequence."""

from typing import Final

__all__ = ["id_at", "time_of"]

_EPOCH_MS: Final = 1_288_834_974_657
_SEQUENCE_BITS: Final = 22


def id_at(milliseconds: int) -> int:
    """The lowest id of that millisecond since the Unix epoch."""
    return max(0, milliseconds - _EPOCH_MS) << _SEQUENCE_BITS


def time_of(tweet: int) -> int:
    """When the tweet was written, in milliseconds since the Unix epoch."""
    return (tweet >> _SEQUENCE_BITS) + _EPOCH_MS
