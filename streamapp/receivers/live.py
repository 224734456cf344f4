"""Line-delimited text from connections into a topic: from one that is made, or from all that come.

Unreliable: nobody can ask a connection for what it has said before. What can be promised is told to
the sender by the end of its connection. A sender that closes its own side, and then reads the other
side's end, knows that all its lines are published (with a write-ahead log: that they will be); one
that sees its connection reset knows nothing about the last of them.

A connection is not read on before what it has sent is safe. That bounds memory and lets a slow
broker slow down the senders.
"""

import asyncio
import logging
import socket
import struct
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from streamapp.faults import fault_point
from streamapp.receivers.clock import Clock
from streamapp.receivers.connection import Bootstrap
from streamapp.receivers.intake import Intake
from streamapp.receivers.lines import LineSplitter
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher
from streamapp.receivers.receiver import Receiver
from streamapp.receivers.topics import dead_letters_of
from streamapp.receivers.wal import Line, LogPlace, WriteAheadLog

__all__ = ["CHUNK_BYTES", "LiveReceiver", "LiveSummary", "Received"]

logger = logging.getLogger(__name__)

LINGER: Final = 0.05
"""Seconds for which lines are collected into one transaction."""

LOG_BYTES: Final = 1 << 30
"""What a write-ahead log may hold before senders wait."""

CHUNK_BYTES: Final = 1 << 19
"""What is read of a connection at a time."""


class Received(msgspec.Struct, frozen=True):
    """The position of a source that has none.

    Attributes:
        lines: that came in, over all time.
        logs: how far each write-ahead log was published, by its id; every host has its own.
    """

    lines: int = 0
    logs: dict[str, LogPlace] = {}


@dataclass(slots=True)
class LiveSummary:
    """What a receiver has done, from its start to its end.

    Attributes:
        source, topic, name: from where, to where, and under which name.
        lines: published. oversized: sent to the dead-letter topic.
        cut: unfinished lines of connections that broke, which are left out.
        connections: that were made.
        transactions: committed.
        seconds: that it took.
    """

    source: str
    topic: str
    name: str
    lines: int = 0
    oversized: int = 0
    cut: int = 0
    connections: int = 0
    transactions: int = 0
    seconds: float = 0.0


class LiveReceiver(Receiver[Received, LiveSummary]):
    """Publishes the lines that connections send.

    Args:
        source: where they come from, for messages.
        log: a directory for a write-ahead log: what is in it is published, whatever happens here.
        log_bytes: what it may hold before connections are kept waiting.
        on_progress: called with the summary after every transaction.
    """

    reliable: ClassVar[bool] = False

    def __init__(
        self,
        source: str,
        topic: str,
        name: str,
        *,
        bootstrap: Bootstrap = "localhost:9092",
        partitions: int = 4,
        patience: float = 60.0,
        clock: Clock | None = None,
        log: Path | None = None,
        log_bytes: int = LOG_BYTES,
        on_progress: Callable[[LiveSummary], None] | None = None,
    ) -> None:
        super().__init__(
            topic,
            name,
            Received,
            bootstrap=bootstrap,
            partitions=partitions,
            patience=patience,
            clock=clock,
        )
        self.summary = LiveSummary(source, topic, name)
        self._log = log
        self._log_bytes = log_bytes
        self._on_progress = on_progress
        self._intake = Intake()
        self._limit = 0

    @property
    def promise(self) -> str:
        """What a crash means, for people."""
        if self._log is None:
            return "a crash loses what was received and not yet published (--wal DIR keeps it)"
        return f"what was received is kept in {self._log} until it is published"

    async def run(self) -> LiveSummary:
        """Publish until the source ends, or until `stop`, and tell what was done, over all lives.

        Raises:
            SourceError: nothing can be received at all.
            OSError: the connection failed.
            BrokerUnavailable, TakenOver, PublishError, PositionError, TopicError: see
                `PositionedPublisher`.
        """
        started = self._clock.monotonic()
        try:
            return await super().run()
        finally:
            self.summary.seconds += self._clock.monotonic() - started

    @abstractmethod
    async def connections(self) -> None:
        """Serve connections until the source ends; cancelled by `stop`."""

    async def receive(self, publisher: PositionedPublisher[Received]) -> LiveSummary:
        """Serve connections, and publish what they send."""
        self._limit = publisher.max_record_bytes
        self._intake = Intake()
        work = [asyncio.ensure_future(self._serve_all())]
        if self._log is None:
            work.append(asyncio.ensure_future(self._publish(publisher)))
            return await self._together(work)
        with WriteAheadLog(self._log, self.topic, self.name) as log:
            writer = _LogWriter(log, self._place(publisher, log))
            work.append(asyncio.ensure_future(self._write(writer)))
            work.append(asyncio.ensure_future(self._publish_log(writer, publisher)))
            return await self._together(work)

    async def _together(self, work: Sequence[asyncio.Future[None]]) -> LiveSummary:
        """Wait for all the work, or for the first that fails; that of the source comes last."""
        try:
            serving, *others = work
            await asyncio.gather(*others)
            await serving
        finally:
            self._intake.abort()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        return self.summary

    async def _serve_all(self) -> None:
        try:
            await self._unless_stopped(self.connections())
        finally:
            self._intake.end()

    # ------------------------------------------------------------------ from connections

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """Take in a connection's lines until it ends, then close it; returns how many there were.

        Closing is the receipt: a connection whose lines are not safe is reset instead.

        Raises:
            OSError: the connection broke.
        """
        self.summary.connections += 1
        _reset_when_closed(writer, True)
        splitter = LineSplitter(self._limit)
        try:
            while data := await reader.read(CHUNK_BYTES):
                splitter.feed(data)
                await self._hand_over(splitter)
            splitter.finish()
            await self._hand_over(splitter)
        except BaseException:
            writer.transport.abort()
            if splitter.partial:
                self.summary.cut += 1
                logger.warning(
                    "a connection to %s broke in mid-line: that line is left out",
                    self.summary.source,
                )
            raise
        _reset_when_closed(writer, False)
        writer.close()
        return splitter.line

    async def _hand_over(self, splitter: LineSplitter) -> None:
        if not splitter.ready:
            return
        lines = splitter.take(splitter.ready)
        received = [Line(line, len(line)) for line in lines.lines]
        received += [Line(line.start, line.length) for line in lines.oversized]
        if received:
            await self._intake.put(received)

    # ------------------------------------------------------------------ to the topic

    async def _publish(self, publisher: PositionedPublisher[Received]) -> None:
        intake = self._intake
        while not (intake.ended and intake.empty):
            await intake.filled()
            if not intake.ended:
                await self._clock.sleep(LINGER)
            if lines := intake.take():
                before = publisher.position or Received()
                position = msgspec.structs.replace(before, lines=before.lines + len(lines))
                await self._commit(publisher, lines, position)
            intake.safe()

    # ------------------------------------------------------------------ by way of a log

    def _place(self, publisher: PositionedPublisher[Received], log: WriteAheadLog) -> LogPlace:
        """Where publishing goes on: of what a log has from before, all that was not committed."""
        logs = (publisher.position or Received()).logs
        return max(log.first, logs.get(log.id, log.first))

    async def _write(self, writer: "_LogWriter") -> None:
        intake = self._intake
        try:
            while not (intake.ended and intake.empty):
                await intake.filled()
                if lines := intake.take():
                    await writer.room(self._log_bytes)
                    await asyncio.to_thread(writer.log.append, lines)
                    fault_point("receiver.logged")
                intake.safe()
                writer.grown.set()
        finally:
            writer.ended = True
            writer.grown.set()

    async def _publish_log(
        self, writer: "_LogWriter", publisher: PositionedPublisher[Received]
    ) -> None:
        log = writer.log
        while True:
            writer.grown.clear()
            ended = writer.ended
            lines, place = await asyncio.to_thread(log.read, writer.place)
            if not lines:
                if ended:
                    return
                await writer.grown.wait()
                await self._clock.sleep(LINGER)
                continue
            before = publisher.position or Received()
            logs = {**before.logs, log.id: place}
            position = Received(before.lines + len(lines), logs)
            await self._commit(publisher, lines, position, log.size_from(place))
            fault_point("receiver.log-committed")
            log.trim(place)
            writer.place = place
            writer.shrunk.set()

    async def _commit(
        self,
        publisher: PositionedPublisher[Received],
        lines: Sequence[Line],
        position: Received,
        lag: int | None = None,
    ) -> None:
        fitting = [line.value for line in lines if line.length <= self._limit]
        oversized = [line for line in lines if line.length > self._limit]
        await publisher.publish(
            fitting, position, dead_letters=[self._dead_letter(line) for line in oversized]
        )
        summary = self.summary
        summary.lines += len(fitting)
        summary.oversized += len(oversized)
        summary.transactions += 1
        self.published(len(fitting), lag)
        if self._on_progress is not None:
            self._on_progress(summary)

    def _dead_letter(self, line: Line) -> DeadLetter:
        reason = (
            f"{self.summary.source}: a line has {line.length} bytes, more than the topic takes:"
            " raise its max.message.bytes, or shorten the line"
        )
        logger.error("%s. It went to %s", reason, dead_letters_of(self.topic))
        return DeadLetter(
            line.value,
            reason,
            [
                ("source", self.summary.source.encode()),
                ("length", str(line.length).encode()),
            ],
        )


def _reset_when_closed(writer: asyncio.StreamWriter, reset: bool) -> None:
    """Whether closing resets the connection, also when the kernel does it for a killed process.

    Otherwise it would end the connection well, and the sender take that for its receipt.
    """
    linger = struct.pack("ii", int(reset), 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class _LogWriter:
    """A log between who writes it and who publishes it: `place` is where publishing goes on."""

    def __init__(self, log: WriteAheadLog, place: LogPlace) -> None:
        self.log = log
        self.place = place
        self.ended = False
        self.grown = asyncio.Event()
        self.shrunk = asyncio.Event()

    async def room(self, most: int) -> None:
        """Wait until less than so many bytes are to be published."""
        while self.log.size_from(self.place) >= most:
            self.shrunk.clear()
            await self.shrunk.wait()
