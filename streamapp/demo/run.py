"""The demo as a whole: what is started, in which order, and how all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from streamapp.broker import Broker
from streamapp.demo.folder import Folder, shown
from streamapp.demo.observer import Observer
from streamapp.demo.pulse import Pulse
from streamapp.demo.screen import Screen, export_svg
from streamapp.demo.summary import Summary, TweetSummary
from streamapp.demo.tally import LINES, Tally
from streamapp.demo.tweet_screen import TweetScreen
from streamapp.demo.tweet_tally import TWEETS, TweetTally
from streamapp.demo.view import View
from streamapp.demo.worker import COMMAND, Worker
from streamapp.receivers.file import FileReceiver
from streamapp.receivers.positions import COMPACTED, read_committed
from streamapp.receivers.topics import TopicSpec, ensure_topics, positions_of

__all__ = ["Demo", "Options"]

PARTITIONS: Final = 4

SAMPLE_RATE: Final = 200.0
"""Lines or tweets a second of a sample: half an hour of a server's life in a minute."""

_TWEET_ID: Final = re.compile(rb'^\{"data":\{"id":"([0-9]+)"')
"""The key of a sample's tweet."""

_RECEIVER = "demo"
_FRAME_SECONDS = 0.25
_LAST_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the demo is asked to do.

    Attributes:
        folder: where it keeps everything; claimed.
        log: the log; None is a generated sample in the folder.
        tweets: whether it is generated tweets instead of a log.
        rate: lines or tweets a second; 0 is as many as go, None too but for the sample.
        seconds: after which it ends, counted from when the view starts.
        until_done: whether it ends when all of the log is counted.
        svg: where an image of the last view goes.
    """

    folder: Folder
    log: Path | None = None
    tweets: bool = False
    rate: float | None = None
    seconds: float | None = None
    until_done: bool = False
    svg: Path | None = None

    @property
    def path(self) -> Path:
        """The log, whosever it is, or the tweets."""
        if self.tweets:
            return self.folder.tweets
        return self.folder.sample if self.log is None else self.log

    @property
    def topic(self) -> str:
        """Where it is published."""
        return TWEETS if self.tweets else LINES

    @property
    def what(self) -> str:
        """What is in it, for reading."""
        return "tweets" if self.tweets else "lines"

    @property
    def source(self) -> str:
        """What it is, for reading."""
        return "sample" if self.tweets else "log"

    @property
    def pace(self) -> float | None:
        """Lines a second, or None for as many as go."""
        if self.rate is None:
            return SAMPLE_RATE if self.log is None else None
        return self.rate or None


class Demo:
    """One start of the demo. `run` returns when it has ended, and leaves nothing running.

    Args:
        options: what to do.
        console: where to show it.
    """

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._tally: Tally | TweetTally = TweetTally() if options.tweets else Tally()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._resumed_from = 0
        self._done = False

    async def run(self) -> Summary | TweetSummary:
        """Run until all is done, until the time is over, or until a signal asks to stop.

        Raises:
            StreamappError: it cannot start, or not go on; what was committed stays.
        """
        folder = self._options.folder
        with self._signals():
            self._write_sample()
            async with Broker(0, folder.broker) as broker:
                self._say(f"Embedded broker: {broker.bootstrap}, journal in {shown(folder.broker)}")
                await self._prepare(broker.bootstrap)
                worker = Worker(broker.bootstrap, folder)
                try:
                    await worker.start()
                    self._say(
                        f"Worker: {COMMAND}, process {worker.pid},"
                        f" log in {shown(folder.worker_log)}"
                    )
                    async with Observer(broker.bootstrap, self._tally) as observer:
                        await self._watch(broker.bootstrap, worker, observer)
                finally:
                    await worker.stop(self._hurrying)
        tally, path = self._tally, shown(self._options.path)
        if isinstance(tally, TweetTally):
            return TweetSummary.of(
                tally, source=path, resumed_from=self._resumed_from, done=self._done
            )
        return Summary.of(tally, log=path, resumed_from=self._resumed_from, done=self._done)

    # ------------------------------------------------------------------ before the view

    def _write_sample(self) -> None:
        folder = self._options.folder
        if self._options.tweets:
            if folder.write_tweets():
                self._say(f"Sample tweets, about an hour of them: {shown(folder.tweets)}")
        elif self._options.log is None and folder.write_sample():
            self._say(f"A sample of an error log: {shown(folder.sample)}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal asks to stop, the second one not to wait for anything."""
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if self._stopping.is_set():
                self._hurrying.set()
            self._stopping.set()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, asked)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, soft_wrap=True)

    async def _prepare(self, bootstrap: str) -> None:
        """Make the receiver's topics, and see how far it is."""
        topic = self._options.topic
        positions = positions_of(topic)
        await ensure_topics(
            bootstrap, TopicSpec(topic, PARTITIONS), TopicSpec(positions, configs=COMPACTED)
        )
        before = await read_committed(bootstrap, positions, _RECEIVER, fenced=False)
        self._resumed_from = before.published
        if before.published:
            self._say(
                f"Going on where the last start was: after {before.published:,} {self._options.what}"
            )

    async def _ready(self, worker: Worker, observer: Observer) -> bool:
        """Wait until the worker has made its topics; return whether it has."""
        while not await observer.find_topics():
            worker.check()
            if await self._pause(_FRAME_SECONDS):
                return False
        return True

    async def _pause(self, seconds: float) -> bool:
        """Sleep, but not past a signal; return whether there was one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    # ------------------------------------------------------------------ the view

    async def _watch(self, bootstrap: str, worker: Worker, observer: Observer) -> None:
        with self._console.status("The worker starts, and makes its topics …"):
            if not await self._ready(worker, observer):
                return
        await observer.catch_up()
        now = asyncio.get_running_loop().time
        path = self._options.path
        receiver = FileReceiver(
            path,
            self._options.topic,
            bootstrap=bootstrap,
            name=_RECEIVER,
            partitions=PARTITIONS,
            rate=self._options.pace,
            key=_TWEET_ID if self._options.tweets else None,
        )
        size = path.stat().st_size if path.exists() else 0
        with View(self._console, self._screen(shown(path), size, now()), now()) as view:
            async with self._receiving(receiver) as lines:
                await self._show(view, worker, observer, lines)
                if self._options.svg is not None:
                    self._options.svg.write_text(export_svg(view.screen), "utf-8")
            view.show("Stopping: what was read is committed first.", now())
            await worker.stop(self._hurrying)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_LOOK_SECONDS):
                    await observer.catch_up()
            view.show(self._closing_words(), now(), last=True)

    def _screen(self, path: str, size: int, now: float) -> Screen | TweetScreen:
        tally = self._tally
        ingested, processed = Pulse(tally.ingested, now), Pulse(tally.processed, now)
        if isinstance(tally, TweetTally):
            return TweetScreen(tally, ingested, processed, path, size)
        return Screen(tally, ingested, processed, Pulse(tally.errors, now), path, size)

    @contextlib.asynccontextmanager
    async def _receiving(self, receiver: FileReceiver) -> AsyncIterator[asyncio.Task[object]]:
        lines: asyncio.Task[object] = asyncio.ensure_future(receiver.run())
        try:
            yield lines
        finally:
            receiver.stop()
            await asyncio.wait({lines}, timeout=_LAST_LOOK_SECONDS)
            lines.cancel()
            await asyncio.wait({lines})

    async def _show(
        self, view: View, worker: Worker, observer: Observer, lines: asyncio.Task[object]
    ) -> None:
        now = asyncio.get_running_loop().time
        end = None if self._options.seconds is None else now() + self._options.seconds
        while end is None or now() < end:
            worker.check()
            observer.check()
            if lines.done():
                lines.result()
                self._done = self._done or await self._all_is_counted(observer)
            view.show(self._note(lines.done()), now())
            if self._done and self._options.until_done:
                return
            if await self._pause(_FRAME_SECONDS):
                return

    async def _all_is_counted(self, observer: Observer) -> bool:
        """Whether nothing is left to count: partitions are read one after the other, so look again."""
        for _ in range(3):
            if not self._tally.settled:
                return False
            await observer.catch_up()
        return self._tally.settled

    # ------------------------------------------------------------------ what it says

    def _note(self, all_read: bool) -> str:
        what, source = self._options.what, self._options.source
        if not all_read:
            pace = self._options.pace
            return (
                f"Reading the {source} as fast as it goes."
                if pace is None
                else f"Reading the {source} at {pace:,.0f} {what} a second."
            )
        if not self._done:
            return f"The {source} is read; the worker counts what is left."
        if self._resumed_from == self._tally.ingested:
            return f"Nothing new in the {source} since the last start; --fresh begins anew."
        return f"All {self._tally.ingested:,} {what} are counted, each exactly once."

    def _closing_words(self) -> str:
        tally = self._tally
        found = f"{tally.processed:,} {self._options.what}"
        if isinstance(tally, Tally):
            found += f", {tally.errors:,} errors"
        return f"{found}, {len(tally.windows):,} windows. The next start goes on from here."
