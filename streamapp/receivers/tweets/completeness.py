"""Up to which id nothing is missing on the topic.

While a connection holds and the gap before it is filled, whatever the connection shows moves that id
on; from the next connect on only search moves it, until it has caught up with that connect.
"""

from typing import Final

from streamapp.receivers.clock import Clock
from streamapp.receivers.tweets.ids import id_at, time_of

__all__ = ["Completeness"]

_CLOCK_ERROR_MS: Final = 300_000


class Completeness:
    """What is complete, as whoever publishes knows it.

    Args:
        complete: the id below which no tweet is missing.
        window_ms: how far below it, in milliseconds, a tweet may still come once more.
        clock: tells which ids lie in the future.
    """

    def __init__(self, complete: int, window_ms: int, clock: Clock) -> None:
        self.complete = complete
        self._window_ms = window_ms
        self._clock = clock
        self._connect_ms = 0
        self._filled_ms = 0
        self._since_connect = 0

    @property
    def floor(self) -> int:
        """The lowest id of a tweet that may still come once more."""
        return id_at(time_of(self.complete) - self._window_ms)

    def connected(self, connect_ms: int) -> None:
        """What comes from now on is from the connection that was made at that time."""
        self._connect_ms = connect_ms
        self._since_connect = id_at(connect_ms)
        self._advance()

    def reach(self, tweet: int) -> None:
        """The connection has come to this id. One that lies in the future says nothing."""
        if time_of(tweet) <= self._clock.now_ms() + _CLOCK_ERROR_MS:
            self._since_connect = max(self._since_connect, tweet)
            self._advance()

    def filled(self, connect_ms: int) -> None:
        """Search has found all that was written before the connect of that time."""
        self._filled_ms = connect_ms
        self._advance()

    def searched(self, before_ms: int) -> bool:
        """Search has found all from before that time, whatever connections there were; is it news?"""
        before, self.complete = self.complete, max(self.complete, id_at(before_ms))
        return self.complete > before

    def has_no_gap_before(self, connect_ms: int) -> bool:
        """Whether what the connection of that time shows moves on what is complete."""
        return self._filled_ms == self._connect_ms == connect_ms

    def _advance(self) -> None:
        if self._connect_ms and self.has_no_gap_before(self._connect_ms):
            self.complete = max(self.complete, self._since_connect)
