"""What follows when something that is tried for ever fails: a pause, one line in the log, or the end.

The pause grows. The log has a line when another error shows than before, and one a minute while it
stays the same; another line says that it goes on. What the brokers refuse for good ends in an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streamapp.engine.refusals import Refusals, causes
from streamapp.errors import StreamappError

__all__ = ["Troubles"]

log = logging.getLogger(__name__)

#: After how many seconds an error that stays is told again.
_AGAIN = 60.0


class Troubles:
    """The failures in a row of one thing.

    Arguments:
        name: what fails.
        retry: what is tried again, for the log: `it opens anew`.
        refused: what the brokers do not allow, for the error.
        backoff: the first and the longest pause, in seconds.
        clock: seconds, of any origin.
    """

    def __init__(
        self,
        name: str,
        retry: str,
        refused: str,
        backoff: tuple[float, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._retry = retry
        self._refused = refused
        self._backoff = backoff
        self._clock = clock
        self._refusals = Refusals()
        self._failures = 0
        self._began = 0.0
        #: The error that was told last, and when.
        self._told: tuple[str, float] | None = None

    def passed(self) -> None:
        """It went well."""
        if self._failures > 1:
            log.info(
                "%s goes on after %d failures in %.1f s",
                self._name,
                self._failures,
                self._clock() - self._began,
            )
        self._failures = 0
        self._told = None
        self._refusals.passed()

    def failed(self, error: Exception) -> float:
        """Return how long to wait, in seconds.

        Raises:
            StreamappError: a broker has refused it several times running, and no retry mends that.
        """
        mend = self._refusals.final(error)
        if mend is not None:
            raise StreamappError(f"{self._refused}, {_described(error)}: {mend}") from error
        now = self._clock()
        if self._failures == 0:
            self._began = now
        first, longest = self._backoff
        pause = min(first * 2.0 ** min(self._failures, 32), longest)
        self._failures += 1
        kind = _kind(error)
        if self._told is None or self._told[0] != kind or now - self._told[1] >= _AGAIN:
            self._told = (kind, now)
            log.warning("%s: %s; %s in %.1f s", self._name, error, self._retry, pause)
        return pause


def _kind(error: BaseException) -> str:
    return " ".join(type(cause).__name__ for cause in causes(error))


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, StreamappError) else f"{type(error).__name__}: {error}"
