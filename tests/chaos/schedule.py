"""Which faults, in which order: all of it drawn from a seed before the first one happens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["EXTRA", "MORTAL", "VETERAN", "Fault", "Kind", "schedule"]

MORTAL: Final = ("a", "b")
"""Workers that are killed and leave."""
VETERAN: Final = "c"
"""The worker whose process lives through all of it: what it holds at the end is compared."""
EXTRA: Final = "guest"
"""A worker without a name, that joins and leaves."""


class Kind(StrEnum):
    """What happens."""

    #: SIGKILL a worker, start it again.
    KILL = "kill"
    #: SIGSTOP a worker, SIGCONT it: within its session timeout, or long past it.
    FREEZE = "freeze"
    #: One more worker joins, and leaves.
    JOIN = "join"
    #: SIGTERM a worker, start it again.
    LEAVE = "leave"
    #: SIGKILL a broker, start it again.
    BROKER_KILL = "broker-kill"
    #: Shut a broker down in order (leaders and coordinators move), start it again.
    BROKER_STOP = "broker-stop"
    #: Reset all connections of the workers to a broker.
    DROP = "drop"
    #: A broker answers the next requests of an API with an error.
    REFUSE = "refuse"
    #: The next requests of an API take effect, and their answers are lost.
    LOSE = "lose"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        gap: checkpoints that have to be committed since the fault before.
        lasts: seconds until it is mended; 0 for those that are over at once.
        target: a worker, or a broker's number.
        api, error, times: of `REFUSE` and `LOSE`.
    """

    kind: Kind
    gap: int
    lasts: float = 0.0
    target: str = ""
    api: str = ""
    error: int = 0
    times: int = 0

    def __str__(self) -> str:
        what = {
            Kind.REFUSE: f" {self.api} with {self.error}, {self.times} times",
            Kind.LOSE: f" answers of {self.api}, {self.times} times",
        }.get(self.kind, "")
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        target = f"broker {self.target}" if self.target.isdecimal() else self.target
        return f"{self.kind}{what}, {target}{lasts}, after {self.gap} checkpoints"


_WEIGHTS: Final[Mapping[Kind, int]] = {
    Kind.KILL: 24,
    Kind.FREEZE: 16,
    Kind.JOIN: 6,
    Kind.LEAVE: 10,
    Kind.BROKER_KILL: 5,
    Kind.BROKER_STOP: 3,
    Kind.DROP: 10,
    Kind.REFUSE: 16,
    Kind.LOSE: 10,
}

#: What a broker says of these APIs when a leader or coordinator moves, loads, or is busy; and what a
#: producer or a member hears that was forgotten.
_ERRORS: Final[Mapping[str, Sequence[int]]] = {
    "Produce": (6, 7, 19, 20),
    "Fetch": (6, 3),
    "ListOffsets": (6, 3),
    "OffsetFetch": (14, 16),
    "FindCoordinator": (15,),
    "JoinGroup": (14, 15, 16, 25),
    "Heartbeat": (16, 15, 25, 22, 27),
    "SyncGroup": (16, 22, 25, 27),
    "InitProducerId": (14, 15, 16, 51),
    "AddPartitionsToTxn": (14, 16, 51, 49, 47),
    "AddOffsetsToTxn": (14, 16, 51, 49),
    "EndTxn": (14, 16, 51, 49),
    "TxnOffsetCommit": (14, 15, 16, 3),
}
_LOST: Final = (
    "Produce",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "TxnOffsetCommit",
    "EndTxn",
    "EndTxn",
    "InitProducerId",
    "JoinGroup",
    "SyncGroup",
    "Heartbeat",
    "Fetch",
    "Metadata",
)


def schedule(seed: int, count: int, *, brokers: int, session: float) -> list[Fault]:
    """Return so many faults.

    Args:
        brokers: how many there are to choose from.
        session: the workers' session timeout, in seconds: a freeze is drawn from both of its sides.
    """
    return list(_draw(random.Random(seed), count, brokers, session))


def _draw(chance: random.Random, count: int, brokers: int, session: float) -> Iterator[Fault]:
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    for _ in range(count):
        [kind] = chance.choices(kinds, weights)
        gap = round(10 ** chance.uniform(0.5, 2.4))
        broker = str(chance.randrange(brokers))
        match kind:
            case Kind.KILL | Kind.LEAVE:
                yield Fault(kind, gap, chance.uniform(0.0, 3.0), chance.choice(MORTAL))
            case Kind.FREEZE:
                long = chance.random() < 0.5
                lasts = chance.uniform(*((1.2, 2.5) if long else (0.1, 0.6))) * session
                yield Fault(kind, gap, lasts, chance.choice((*MORTAL, VETERAN)))
            case Kind.JOIN:
                yield Fault(kind, gap, chance.uniform(3.0, 8.0), EXTRA)
            case Kind.BROKER_KILL | Kind.BROKER_STOP:
                yield Fault(kind, gap, chance.uniform(0.0, 4.0), broker)
            case Kind.DROP:
                yield Fault(kind, gap, target=broker)
            case Kind.REFUSE:
                api = chance.choice(list(_ERRORS))
                error = chance.choice(_ERRORS[api])
                yield Fault(
                    kind, gap, target=broker, api=api, error=error, times=chance.randrange(1, 6)
                )
            case Kind.LOSE:
                api = chance.choice(_LOST)
                yield Fault(kind, gap, target=broker, api=api, times=chance.randrange(1, 3))
