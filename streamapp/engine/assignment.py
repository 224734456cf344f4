"""Who gets which task: balanced first, sticky second, and never without its state if that can be helped.

A pure function of what the members say of themselves, so that whoever leads the group finds the
same. A task is to move where the balance wants it, but only once there is a store that is near its
end: until then it stays where one is, and the member that is to have it warms up (KIP-441). Every
task has its standbys on other members, which follow its changelogs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

__all__ = ["Member", "Share", "assign_tasks"]


@dataclass(frozen=True, slots=True)
class Member:
    """What a member says of itself.

    Attributes:
        stores: the tasks whose stores it has, with how far they are: the sum of the offsets up to
            which they hold their changelogs.
        active: the tasks that it has had so far.
        standby: the tasks that it has followed so far.
        warming: the tasks that it was to have as soon as it is near enough.
    """

    stores: Mapping[int, int] = field(default_factory=dict)
    active: frozenset[int] = frozenset()
    standby: frozenset[int] = frozenset()
    warming: frozenset[int] = frozenset()


@dataclass(slots=True)
class Share:
    """What a member gets.

    Attributes:
        active: tasks to run.
        standby: tasks to follow, none of them its own.
        warming: tasks to follow until they are near enough to be moved here; some may be standbys.
    """

    active: list[int] = field(default_factory=list)
    standby: list[int] = field(default_factory=list)
    warming: list[int] = field(default_factory=list)


#: What it costs to move a task to a member, to be compared; `None` if it must not go there.
_Cost = Callable[[int, str], Any]


def assign_tasks(
    tasks: Iterable[int],
    members: Mapping[str, Member],
    *,
    replicas: int = 0,
    acceptable_lag: int = 0,
) -> dict[str, Share]:
    """Return each member's share.

    Arguments:
        tasks: partition numbers.
        replicas: standbys of each task, as far as there are other members.
        acceptable_lag: how many changelog offsets a member may be behind to get a task at once.
    """
    if not members:
        return {}
    tasks = sorted(set(tasks))
    known = _Known(tasks, members, acceptable_lag)
    targets = _level_actives(known)
    actives = {task: known.warm_one(task, target) for task, target in targets.items()}
    shares = {member: Share() for member in sorted(members)}
    for task in tasks:
        shares[actives[task]].active.append(task)
        if actives[task] != targets[task]:
            shares[targets[task]].warming.append(task)
    for member, standbys in _place_standbys(known, actives, replicas).items():
        shares[member].standby = sorted(standbys)
    return shares


class _Known:
    """What the members say, as questions about a task and a member."""

    def __init__(
        self, tasks: list[int], members: Mapping[str, Member], acceptable_lag: int
    ) -> None:
        self.tasks = tasks
        self.members = members
        self.names = sorted(members)
        self._acceptable = acceptable_lag
        self._furthest = {
            task: max(member.stores.get(task, 0) for member in members.values()) for task in tasks
        }
        self.owners = self._furthest_of(lambda member: member.active)
        self.heirs = self._furthest_of(lambda member: member.warming)

    def _furthest_of(self, claims: Callable[[Member], frozenset[int]]) -> dict[int, str]:
        """Return who claims each task; of several who do, the one whose store is further."""
        found: dict[int, str] = {}
        for name in self.names:
            for task in claims(self.members[name]) & self._furthest.keys():
                other = found.get(task)
                if other is None or self.lag(task, name) < self.lag(task, other):
                    found[task] = name
        return found

    def lag(self, task: int, member: str) -> int:
        """How many changelog offsets a member's store is behind the furthest one."""
        return self._furthest[task] - self.members[member].stores.get(task, 0)

    def cold(self, task: int, member: str) -> bool:
        """Whether a member would have too much to restore."""
        return self.lag(task, member) > self._acceptable

    def has_store(self, task: int, member: str) -> bool:
        """Whether a member has a store of a task, whatever it holds."""
        return task in self.members[member].stores

    def warm_one(self, task: int, target: str) -> str:
        """Return who has a task until its target is warm."""
        if not self.cold(task, target):
            return target
        owner = self.owners.get(task)
        warm = [name for name in self.names if not self.cold(task, name)]
        return owner if owner in warm else min(warm, key=lambda name: (self.lag(task, name), name))


def _level_actives(known: _Known) -> dict[int, str]:
    """Return where each task belongs, balanced: with its owner, or the nearest store, if there is room.

    One that is to move still is, or two rebalances might have two opinions.
    """
    placed: dict[str, set[int]] = {name: set() for name in known.names}
    homes = known.owners | known.heirs
    for task, home in homes.items():
        placed[home].add(task)
    homeless = [task for task in known.tasks if task not in homes]
    # Those that have a store somewhere choose first.
    for task in sorted(homeless, key=lambda t: not any(known.has_store(t, n) for n in placed)):
        nearest = min(
            placed,
            key=lambda n: (
                not known.has_store(task, n),
                known.lag(task, n),
                len(placed[n]),
                n,
            ),
        )
        placed[nearest].add(task)

    def cost(task: int, to: str) -> Any:
        moves_work = task in known.owners
        return (
            moves_work,
            known.cold(task, to),
            not known.has_store(task, to),
            known.lag(task, to),
        )

    _level(placed, cost)
    return {task: name for name, mine in placed.items() for task in mine}


def _place_standbys(
    known: _Known, actives: Mapping[int, str], replicas: int
) -> dict[str, set[int]]:
    """Return each member's standbys, balanced: who follows a task goes on, then who has a store of it."""
    placed: dict[str, set[int]] = {name: set() for name in known.names}
    for task in known.tasks:
        others = [name for name in known.names if name != actives[task]]
        others.sort(
            key=lambda n: (
                task not in known.members[n].standby,
                not known.has_store(task, n),
                known.lag(task, n),
                len(placed[n]),
                n,
            )
        )
        for name in others[:replicas]:
            placed[name].add(task)

    def cost(task: int, to: str) -> Any:
        if to == actives[task] or task in placed[to]:
            return None
        return (
            task not in known.members[to].standby,
            not known.has_store(task, to),
            known.lag(task, to),
        )

    _level(placed, cost)
    return placed


def _level(placed: dict[str, set[int]], cost: _Cost) -> None:
    """Move what is cheapest until no member has two more than another, as far as moves are allowed."""
    _level_directly(placed, cost)
    while (path := _relieving_path(placed, cost)) is not None:
        for source, to in pairwise(path):
            _, task = min(_moves(placed[source], to, cost))
            placed[source].remove(task)
            placed[to].add(task)


def _moves(tasks: Iterable[int], to: str, cost: _Cost) -> list[tuple[Any, int]]:
    found = ((cost(task, to), task) for task in tasks)
    return [(price, task) for price, task in found if price is not None]


def _level_directly(placed: dict[str, set[int]], cost: _Cost) -> None:
    """Move from members that have too many to such that have too few, in one pass over the prices."""
    by_load = sorted(placed, key=lambda name: (-len(placed[name]), name))
    least, over = divmod(sum(map(len, placed.values())), len(placed))
    spare = {name: least + (place < over) - len(placed[name]) for place, name in enumerate(by_load)}
    givers = [name for name in placed if spare[name] < 0]
    takers = [name for name in placed if spare[name] > 0]
    offers = sorted(
        (price, task, giver, taker)
        for giver in givers
        for taker in takers
        for price, task in _moves(placed[giver], taker, cost)
    )
    for _, task, giver, taker in offers:
        movable = task in placed[giver] and task not in placed[taker]
        if spare[giver] < 0 < spare[taker] and movable:
            placed[giver].remove(task)
            placed[taker].add(task)
            spare[giver] += 1
            spare[taker] -= 1


def _relieving_path(placed: dict[str, set[int]], cost: _Cost) -> list[str] | None:
    """Return members along which a task each can be passed on, from a crowded one to one with two less."""
    loads = {name: len(mine) for name, mine in placed.items()}
    for start in sorted(placed, key=lambda name: (-loads[name], name)):
        if loads[start] < min(loads.values()) + 2:
            return None
        before = {start: start}
        ahead = deque([start])
        while ahead:
            name = ahead.popleft()
            for to in sorted(placed.keys() - before.keys(), key=lambda n: (loads[n], n)):
                if not _moves(placed[name], to, cost):
                    continue
                before[to] = name
                if loads[to] <= loads[start] - 2:
                    return _path(before, to)
                ahead.append(to)
    return None


def _path(before: Mapping[str, str], end: str) -> list[str]:
    path = [end]
    while before[path[-1]] != path[-1]:
        path.append(before[path[-1]])
    return path[::-1]
