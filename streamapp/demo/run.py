"""The demo as a whole: what is started, in which order, and how all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from streamapp.broker import Broker
from streamapp.demo.folder import Folder, shown
from streamapp.demo.jobs import Job
from streamapp.demo.observer import Observer
from streamapp.demo.screen import export_svg
from streamapp.demo.summary import Start, Summary
from streamapp.demo.view import View
from streamapp.demo.worker import COMMAND, Worker
from streamapp.receivers.positions import COMPACTED, read_committed
from streamapp.receivers.receiver import Receiver
from streamapp.receivers.topics import TopicSpec, ensure_topics, positions_of

__all__ = ["Demo", "Options"]

PARTITIONS: Final = 4

_RECEIVER = "demo"
_FRAME_SECONDS = 0.25
_LAST_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the demo is asked to do.

    Attributes:
        folder: where it keeps everything; claimed.
        job: what it is of.
        seconds: after which it ends, counted from when the view starts.
        until_done: whether it ends when all that the source holds is counted.
        svg: where an image of the last view goes.
    """

    folder: Folder
    job: Job
    seconds: float | None = None
    until_done: bool = False
    svg: Path | None = None


class Demo:
    """One start of the demo. `run` returns when it has ended, and leaves nothing running.

    Args:
        options: what to do.
        console: where to show it.
    """

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._job = options.job
        self._console = console
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._resumed_from = 0
        self._done = False

    async def run(self) -> Summary:
        """Run until all is done, until the time is over, or until a signal asks to stop.

        Raises:
            StreamappError: it cannot start, or not go on; what was committed stays.
        """
        folder = self._options.folder
        with self._signals():
            if made := self._job.prepare():
                self._say(made)
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
                    async with Observer(broker.bootstrap, self._job.tally) as observer:
                        await self._watch(broker.bootstrap, worker, observer)
                finally:
                    await worker.stop(self._hurrying)
        return self._job.summary(Start(self._job.origin, self._resumed_from, self._done))

    # ------------------------------------------------------------------ before the view

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
        topic = self._job.tally.source
        positions = positions_of(topic)
        await ensure_topics(
            bootstrap, TopicSpec(topic, PARTITIONS), TopicSpec(positions, configs=COMPACTED)
        )
        before = await read_committed(bootstrap, positions, _RECEIVER, fenced=False)
        self._resumed_from = before.published
        if before.published:
            self._say(
                f"Going on where the last start was: after {before.published:,} {self._job.what}"
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
        receiver = self._job.receiver(
            topic=self._job.tally.source,
            name=_RECEIVER,
            bootstrap=bootstrap,
            partitions=PARTITIONS,
        )
        with View(self._console, self._job.screen(now()), now()) as view:
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

    @contextlib.asynccontextmanager
    async def _receiving(self, receiver: Receiver[Any, Any]) -> AsyncIterator[asyncio.Task[object]]:
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
            if not self._job.tally.settled:
                return False
            await observer.catch_up()
        return self._job.tally.settled

    # ------------------------------------------------------------------ what it says

    def _note(self, all_read: bool) -> str:
        job = self._job
        if not all_read:
            return job.reading()
        if not self._done:
            return f"The {job.source} is read; the worker counts what is left."
        if self._resumed_from == job.tally.ingested:
            return f"Nothing new in the {job.source} since the last start; --fresh begins anew."
        return f"All {job.tally.ingested:,} {job.what} are counted, each exactly once."

    def _closing_words(self) -> str:
        windows = len(self._job.tally.windows)
        return f"{self._job.counted()}, {windows:,} windows. The next start goes on from here."
