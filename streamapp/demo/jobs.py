"""What a demo is of: a log, generated tweets, or those of the real stream.

A job knows where its records come from, what is counted of them, and how that is shown.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from streamapp.demo.folder import Folder, shown
from streamapp.demo.log_screen import LogScreen
from streamapp.demo.log_tally import LogTally
from streamapp.demo.samples import write_sample_log, write_sample_tweets
from streamapp.demo.screen import Screen
from streamapp.demo.summary import LogSummary, Start, Summary, TweetSummary
from streamapp.demo.tally import Tally
from streamapp.demo.tweet_screen import TweetScreen
from streamapp.demo.tweet_tally import TweetTally
from streamapp.receivers.file import FileReceiver
from streamapp.receivers.receiver import Receiver
from streamapp.receivers.tweets import Api, BearerToken, Rule, TweetReceiver

__all__ = ["SAMPLE_RATE", "Job", "LiveJob", "LogJob", "TweetJob"]

SAMPLE_RATE: Final = 200.0
"""Lines or tweets a second of a sample: half an hour of a server's life in a minute."""

_TWEET_KEY: Final = re.compile(rb'^\{"data":\{"id":"([0-9]+)"')
"""The id of a sample's tweet."""


class Job(ABC):
    """One kind of demo.

    Attributes:
        name: whose demo a folder holds.
        tally: what is known so far.
    """

    what: ClassVar[str]
    """What the records are, for reading."""

    source: ClassVar[str]
    """What they come from, for reading."""

    name: str
    tally: Tally

    def prepare(self) -> str | None:
        """Write what is to be read, if it is ours to write; a sentence about it if it was."""
        return None

    @abstractmethod
    def receiver(self, **place: Any) -> Receiver[Any, Any]:
        """What publishes the records, in a `place`: topic, name, bootstrap, partitions."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where the records come from, in a word or a path."""

    @abstractmethod
    def screen(self, now: float) -> Screen[Any]:
        """The view, from `now` on: seconds of any clock."""

    @abstractmethod
    def summary(self, start: Start) -> Summary:
        """What was found."""

    @abstractmethod
    def reading(self) -> str:
        """What the receiver does just now, in a sentence."""

    @property
    def size(self) -> int | None:
        """Of what is read, in bytes; None where it has no end."""
        return None

    def counted(self) -> str:
        """What was counted, for reading."""
        return f"{self.tally.processed:,} {self.what}"


class _FileJob(Job):
    """A job that reads a file.

    Args:
        path: of the file.
        rate: records a second; 0 is as many as go.
    """

    key: ClassVar[re.Pattern[bytes] | None] = None

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self._rate = rate or None

    @property
    def origin(self) -> str:
        return shown(self.path)

    def receiver(self, **place: Any) -> FileReceiver:
        return FileReceiver(self.path, rate=self._rate, key=self.key, **place)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def reading(self) -> str:
        if self._rate is None:
            return f"Reading the {self.source} as fast as it goes."
        return f"Reading the {self.source} at {self._rate:,.0f} {self.what} a second."


class LogJob(_FileJob):
    """The errors of a log, counted in windows.

    Args:
        folder: of the demo.
        log: the user's; None is a sample in the folder.
        rate: lines a second; 0 is as many as go, None too but for the sample.
    """

    what, source = "lines", "log"

    def __init__(self, folder: Folder, log: Path | None, rate: float | None) -> None:
        pace = SAMPLE_RATE if log is None else 0.0
        super().__init__(log or folder.sample, pace if rate is None else rate)
        self.name = folder.sample.name if log is None else str(log.resolve())
        self.tally: LogTally = LogTally()
        self._ours = log is None

    def prepare(self) -> str | None:
        if self._ours and write_sample_log(self.path):
            return f"A sample of an error log: {self.origin}"
        return None

    def screen(self, now: float) -> LogScreen:
        return LogScreen(self.tally, self.origin, self.size, now)

    def summary(self, start: Start) -> LogSummary:
        return LogSummary.of(self.tally, start)

    def counted(self) -> str:
        return f"{super().counted()}, {self.tally.errors:,} errors"


class _TrendsJob(Job):
    """A job whose records are tweets."""

    what = "tweets"

    def __init__(self) -> None:
        self.tally: TweetTally = TweetTally()

    def screen(self, now: float) -> TweetScreen:
        return TweetScreen(self.tally, self.origin, self.size, now)

    def summary(self, start: Start) -> TweetSummary:
        return TweetSummary.of(self.tally, start)


class TweetJob(_FileJob, _TrendsJob):
    """Trending hashtags of generated tweets.

    Args:
        folder: of the demo.
        rate: tweets a second; 0 is as many as go.
    """

    source = "sample"
    key = _TWEET_KEY

    def __init__(self, folder: Folder, rate: float | None) -> None:
        _FileJob.__init__(self, folder.tweets, SAMPLE_RATE if rate is None else rate)
        _TrendsJob.__init__(self)
        self.name = folder.tweets.name

    def prepare(self) -> str | None:
        if write_sample_tweets(self.path):
            return f"Sample tweets, about an hour of them: {self.origin}"
        return None


class LiveJob(_TrendsJob):
    """Trending hashtags of what X's filtered stream selects, from now on.

    Args:
        rule: what to select; it is added to the rules on the server.
        environment: has the bearer token.

    Raises:
        ConfigurationError: there is none.
    """

    source = "stream"
    name = origin = "X's filtered stream"

    def __init__(self, rule: str, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._rule = rule
        self._token = BearerToken.find(environment=environment)
        self._api = Api.from_environment(environment)
        self._receiver: TweetReceiver | None = None

    def receiver(self, **place: Any) -> TweetReceiver:
        self._receiver = TweetReceiver(
            token=self._token, api=self._api, rules=[Rule(self._rule)], **place
        )
        return self._receiver

    def reading(self) -> str:
        state = "starting" if self._receiver is None else self._receiver.progress.state
        return f"Live, {state}: {self._rule}"
