"""Publishing to a topic together with the position of the source, exactly once.

Every receiver goes through here: it hands over records and the position behind them, and both
become visible in one transaction. Whatever fails in between is settled here too: the publisher opens
anew under the same transactional id, looks whether the transaction was committed after all, and
publishes it again if not.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import msgspec
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedVersionError,
)
from aiokafka.partitioner import murmur2

from streamapp.faults import fault_point
from streamapp.receivers.clock import Clock
from streamapp.receivers.connection import Bootstrap
from streamapp.receivers.errors import BrokerUnavailable, PositionError, PublishError, TakenOver
from streamapp.receivers.positions import COMPACTED, Committed, end_of, read_committed
from streamapp.receivers.session import Headers, Outgoing, ProducerSession
from streamapp.receivers.topics import TopicSpec, dead_letters_of, ensure_topics, positions_of

__all__ = ["DeadLetter", "PositionedPublisher"]

logger = logging.getLogger(__name__)

Position = TypeVar("Position", bound=msgspec.Struct)

DEAD_LETTER_BYTES: Final = 64 * 1024
"""What is kept of a record that cannot be published."""

_DEFAULT_MESSAGE_BYTES = 1_048_588
_OVERHEAD_BYTES = 512
_BATCH_BYTES = 1 << 18
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

_HOPELESS = (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedVersionError,
)
# aiokafka guards the states of a producer with assertions: after an error they are part of it.
_FAILURES = (KafkaError, OSError, TimeoutError, AssertionError)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be published: why, from where, and the beginning of it."""

    value: bytes
    reason: str
    coordinates: Headers

    def headers(self) -> Headers:
        return [("reason", self.reason.encode()), *self.coordinates]


class PositionedPublisher(Generic[Position]):
    """Publishes to `topic` as the receiver `name`, and keeps the receiver's position.

        async with PositionedPublisher(bootstrap, topic, name, FilePosition) as publisher:
            source.seek(publisher.position)
            await publisher.publish(lines, source.tell())

    Entering creates missing topics, fences whoever held the name, and reads the position.

    Args:
        bootstrap: the broker's address, `host:port`, or a `Connection`.
        topic: where records go.
        name: the receiver's; the position and the transactional id belong to it.
        position_type: what a position is; stored as JSON.
        partitions: of the topic, should it have to be created.
        patience: seconds for which a failing broker is asked again.
        clock: what tells the time; records are stamped with the time of publishing, since with
            the time of an old event Kafka's retention would delete them at once.

    Entering raises:
        BrokerUnavailable: nothing answers at `bootstrap`.
        TopicError: a topic is missing and cannot be created.
        PositionError: the committed position cannot be used.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        topic: str,
        name: str,
        position_type: type[Position],
        *,
        partitions: int = 4,
        patience: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self.topic = topic
        self.name = name
        self.max_record_bytes = 0
        self._bootstrap = bootstrap
        self._position_type = position_type
        self._new_partitions = partitions
        self._patience = patience
        self._clock = clock or Clock()
        self._owner = uuid.uuid4().hex
        self._committed = Committed()
        self._partitions = 0
        self._dead_letters_ready = False
        self._session: ProducerSession | None = None

    @property
    def position(self) -> Position | None:
        """The committed position; None when nothing was ever published under this name.

        Raises:
            PositionError: it is that of another kind of receiver.
        """
        try:
            return msgspec.json.decode(
                self._committed.position,
                type=self._position_type | None,
            )
        except msgspec.ValidationError as error:
            raise PositionError(
                f"the position of receiver {self.name!r} of topic {self.topic!r} is of another"
                f" kind ({error}): another receiver has used the name; choose one with --name"
            ) from error

    async def __aenter__(self) -> Self:
        configs = await ensure_topics(
            self._bootstrap,
            TopicSpec(self.topic, self._new_partitions),
            TopicSpec(positions_of(self.topic), configs=COMPACTED),
        )
        limit = int(configs[self.topic].get("max.message.bytes", _DEFAULT_MESSAGE_BYTES))
        self.max_record_bytes = limit - _OVERHEAD_BYTES
        await self._settle(None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def publish(
        self,
        values: Sequence[bytes],
        position: Position,
        *,
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers] | None = None,
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """Commit `values` and the position behind them, in one transaction, exactly once.

        Returns when they are committed. A record with a key goes to the key's partition (Kafka's
        default hash), one without goes round: which one depends on how many were published before
        it, not on how they were batched.

        Args:
            values: the records, each at most `max_record_bytes` with its key and headers.
            position: where the source goes on after them.
            keys: one for each value, or None.
            headers: those of each value.
            dead_letters: what could not be published; goes to the dead-letter topic.

        Raises:
            TakenOver: another process publishes under this name.
            PublishError: the broker refuses the records.
            BrokerUnavailable: nothing could be committed for as long as we are patient.
        """
        if dead_letters and not self._dead_letters_ready:
            await ensure_topics(self._bootstrap, TopicSpec(dead_letters_of(self.topic)))
            self._dead_letters_ready = True
        before = self._committed
        outgoing = self._route(values, keys, headers, before.published)
        if dead_letters:
            outgoing.append(
                Outgoing(
                    dead_letters_of(self.topic),
                    0,
                    [letter.value[:DEAD_LETTER_BYTES] for letter in dead_letters],
                    headers=[letter.headers() for letter in dead_letters],
                )
            )
        after = Committed(
            owner=self._owner,
            sequence=before.sequence + 1,
            published=before.published + len(values),
            position=msgspec.Raw(msgspec.json.encode(position)),
        )
        await self._settle(after, outgoing)

    def _route(
        self,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None,
        headers: Sequence[Headers] | None,
        published: int,
    ) -> list[Outgoing]:
        """The records of each partition, in their order."""
        count = self._partitions
        if keys is None:
            picked: list[slice | list[int]] = [
                slice((partition - published) % count, None, count) for partition in range(count)
            ]
        else:
            indices: list[list[int]] = [[] for _ in range(count)]
            for index, key in enumerate(keys):
                hashed = published + index if key is None else murmur2(key) & 0x7FFFFFFF
                indices[hashed % count].append(index)
            picked = [*indices]
        return [
            Outgoing(
                self.topic,
                partition,
                _pick(values, where),
                None if keys is None else _pick(keys, where),
                None if headers is None else _pick(headers, where),
            )
            for partition, where in enumerate(picked)
        ]

    async def _settle(self, after: Committed | None, outgoing: Sequence[Outgoing] = ()) -> None:
        """Bring the committed state to `after`, through as many sessions as it takes.

        None is the claim with which a publisher begins: it moves nothing and names the new owner,
        so that the old one can tell that it was replaced from a transaction that timed out.
        """
        give_up = self._clock.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._session is None:
                    found = await self._open(after)
                    if after is None:
                        self._committed = found
                        after = msgspec.structs.replace(
                            found, owner=self._owner, sequence=found.sequence + 1
                        )
                    if found.is_same(after):
                        self._committed = after
                        return
                assert after is not None and self._session is not None
                await self._session.transact(
                    [
                        *outgoing,
                        Outgoing(
                            positions_of(self.topic), 0, [after.encode()], [self.name.encode()]
                        ),
                    ],
                    self._clock.now_ms(),
                )
                self._committed = after
                return
            except _HOPELESS as error:
                await self._discard()
                raise PublishError(
                    f"the broker at {self._bootstrap} refuses what receiver {self.name!r}"
                    f" publishes to topic {self.topic!r}: {error!r}"
                ) from error
            except _FAILURES as error:
                await self._discard()
                if self._clock.monotonic() >= give_up:
                    raise BrokerUnavailable(self._bootstrap, error) from error
                logger.warning(
                    "Publishing to %s as %s failed (%r): opening anew in %.1f s",
                    self.topic,
                    self.name,
                    error,
                    pause,
                )
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except BaseException:
                await self._discard()
                raise

    async def _open(self, after: Committed | None) -> Committed:
        """Open a session and return what is committed once everybody else is fenced.

        Raises:
            TakenOver: somebody else has committed under this name. Looked for before fencing too,
                so that two processes do not fence each other for ever.
        """
        positions = positions_of(self.topic)
        if after is not None:
            self._check_owner(
                await read_committed(self._bootstrap, positions, self.name, fenced=False), after
            )
        self._session = session = ProducerSession(
            self._bootstrap,
            f"{self.topic}-receiver-{self.name}",
            min(_BATCH_BYTES, self.max_record_bytes),
        )
        await session.start()
        fault_point("receiver.fenced")
        found = await read_committed(self._bootstrap, positions, self.name, fenced=True)
        self._partitions = await session.partitions(self.topic)
        if after is not None:
            self._check_owner(found, after)
        elif found.published:
            await self._check_topic(found)
        return found

    async def _check_topic(self, found: Committed) -> None:
        end = await end_of(self._bootstrap, self.topic, self._partitions)
        if end < found.published:
            raise PositionError(
                f"topic {self.topic!r} was deleted and made anew: receiver {self.name!r} has"
                f" published {found.published:,} records to it, and its offsets end at {end:,}."
                " To publish everything again, choose a new name (--name) or delete topic"
                f" {positions_of(self.topic)!r}"
            )

    def _check_owner(self, found: Committed, after: Committed) -> None:
        if not (found.is_same(self._committed) or found.is_same(after)):
            raise TakenOver(self.topic, self.name)

    async def _discard(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.discard()


Item = TypeVar("Item")


def _pick(items: Sequence[Item], where: slice | list[int]) -> Sequence[Item]:
    return items[where] if isinstance(where, slice) else [items[index] for index in where]
