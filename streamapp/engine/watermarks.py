"""How far event time has come in a task.

Each source partition has a mark; a source that other tasks feed (a repartition topic) has one for
each of them. The task's watermark is the least mark of those that are not idle. A partition is
idle when it is caught up and quiet for `idle_timeout`; when all are, the watermark goes on with
the clock, from where it stands. Time is injected; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Watermarks"]


@dataclass(slots=True)
class _Mark:
    value: int | None = None
    idle: bool = False


class Watermarks:
    """The marks of one task.

    Arguments:
        sources: its source topics, each with the upstream tasks that feed it (none for a topic that
            carries event time itself).
        idle_timeout: milliseconds.
        now: the clock at the start, in milliseconds; time before it does not count as quiet.
    """

    def __init__(self, sources: Mapping[str, Collection[str]], idle_timeout: int, now: int) -> None:
        self._marks: dict[str, _Mark] = {}
        self._by_topic: dict[str, list[_Mark]] = {}
        self._fed = {topic for topic, upstreams in sources.items() if upstreams}
        for topic, upstreams in sources.items():
            names = [f"{topic}<{upstream}" for upstream in upstreams] or [topic]
            self._by_topic[topic] = [self._marks.setdefault(name, _Mark()) for name in names]
        self._idle_timeout = idle_timeout
        self._quiet_since = dict.fromkeys(sources, now)
        self._watermark: int | None = None
        #: When every mark was found idle, and where the watermark stood then.
        self._alone: tuple[int, int] | None = None

    # ------------------------------------------------------------------ the marker

    def restore(self, marks: dict[str, int], idle: Iterable[str], watermark: int | None) -> None:
        """Take up what the marker says; marks of sources that are gone are dropped."""
        idle = set(idle)
        for name, mark in self._marks.items():
            mark.value = marks.get(name)
            mark.idle = name in idle
        self._watermark = watermark
        self._alone = None

    @property
    def idle_upstreams(self) -> list[str]:
        """The marks of upstream tasks that said they are idle, for the marker."""
        return [
            name
            for topic in sorted(self._fed)
            for name, mark in self._marks.items()
            if mark.idle and name.startswith(f"{topic}<")
        ]

    @property
    def marks(self) -> dict[str, int]:
        """The known marks, for the marker."""
        return {name: mark.value for name, mark in self._marks.items() if mark.value is not None}

    @property
    def watermark(self) -> int | None:
        """The task's watermark: `None` before every source that is not idle has one."""
        return self._watermark

    @property
    def idle(self) -> bool:
        """Whether all sources are idle."""
        return all(mark.idle for mark in self._marks.values())

    # ------------------------------------------------------------------ what moves it

    def observe(self, topic: str, time: int, now: int) -> None:
        """A source partition has come to an event time (grace taken off)."""
        self._quiet_since[topic] = now
        if topic not in self._fed:
            self._raise(self._by_topic[topic][0], time)

    def seen(self, topic: str, now: int) -> None:
        """A source partition had records, whatever their event time."""
        self._quiet_since[topic] = now

    def hear(self, topic: str, upstream: str, time: int | None, idle: bool) -> None:
        """An upstream task has said how far it is, or that it is idle.

        An upstream that was not known before is waited for from now on.
        """
        name = f"{topic}<{upstream}"
        mark = self._marks.get(name)
        if mark is None:
            mark = self._marks[name] = _Mark()
            self._by_topic[topic].append(mark)
        if time is not None:
            self._raise(mark, time)
        mark.idle = idle

    @staticmethod
    def _raise(mark: _Mark, time: int) -> None:
        mark.idle = False
        if mark.value is None or time > mark.value:
            mark.value = time

    def advance(self, now: int, caught_up: Iterable[str]) -> int | None:
        """Return the watermark at a time of the clock; `caught_up` names the topics with no lag."""
        caught_up = set(caught_up)
        quiet = {
            topic
            for topic in caught_up & self._quiet_since.keys()
            if now - self._quiet_since[topic] >= self._idle_timeout
        }
        for topic in quiet - self._fed:
            self._by_topic[topic][0].idle = True
        waiting = [mark for mark in self._marks.values() if not mark.idle]
        if waiting:
            self._alone = None
            if all(mark.value is not None for mark in waiting):
                self._move_to(min(mark.value for mark in waiting if mark.value is not None))
        elif quiet >= self._by_topic.keys():
            self._go_on_alone(now)
        return self._watermark

    def _go_on_alone(self, now: int) -> None:
        if self._alone is None:
            # The last marks count: nothing is behind them any more.
            known = [mark.value for mark in self._marks.values() if mark.value is not None]
            if known:
                self._move_to(max(known))
            if self._watermark is None:
                return
            self._alone = (now, self._watermark)
        since, base = self._alone
        self._move_to(base + now - since)

    def _move_to(self, time: int) -> None:
        if self._watermark is None or time > self._watermark:
            self._watermark = time
