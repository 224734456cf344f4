"""An Apache error log that never was: for the demo, for benchmarks, for whoever has no log at hand.

The same arguments give the same bytes. The log tells a story worth charting: a steady murmur of
notices with a few errors of every module, and now and then an incident, when one module fails many
times a second for half a minute to five minutes, rising fast and dying away. As in real logs of
several server processes, a line may be up to three seconds older than the one before.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

__all__ = ["MAX_STEP_BACK", "START", "generate"]

START: Final = datetime(2005, 12, 4, 4, 47, 44, tzinfo=UTC)
"""When the log begins unless told otherwise."""

MAX_STEP_BACK: Final = timedelta(seconds=3)
"""How much older than a line before it a line may be."""

_STEP_BACK_SHARE = 0.02
_QUIET_BETWEEN_INCIDENTS = 480.0
_ERROR_SHARE = 0.08
_DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

_NOTICES = (
    (60, "notice", "jk2_init() Found child {pid} in scoreboard slot {slot}"),
    (40, "notice", "workerEnv.init() ok /etc/httpd/conf/workers2.properties"),
    (3, "info", "[client {address}] (104)Connection reset by peer: core_output_filter"),
    (2, "warn", "mod_ssl: {slot} of 64 session cache slots in use"),
    (1, "debug", "mod_proxy: worker {slot} is idle"),
)
_ERRORS = (
    (40, "error", "mod_jk child workerEnv in error state {state}"),
    (15, "error", "mod_jk child init {slot} -2"),
    (25, "error", "[client {address}] Directory index forbidden by rule: /var/www/html/"),
    (15, "error", "jk2_init() Can't find child {pid} in scoreboard"),
    (8, "error", "mod_ssl: SSL handshake failed: HTTP spoken on HTTPS port"),
    (8, "error", "mod_proxy: error reading status line from remote server {address}"),
    (3, "crit", "mod_proxy: no more workers for {address}"),
)
_INCIDENTS = (
    (5, ("mod_jk child workerEnv in error state {state}", "mod_jk child init {slot} -2")),
    (3, ("[client {address}] File does not exist: /var/www/html/{page}",)),
    (2, ("mod_proxy: error reading status line from remote server {address}",)),
    (2, ("mod_ssl: SSL handshake failed: HTTP spoken on HTTPS port",)),
)
_PAGES = ("scripts/root.exe", "phpmyadmin/", "robots.txt", "favicon.ico", "cgi-bin/test-cgi")


@dataclass(frozen=True, slots=True)
class _Incident:
    """One module failing: it rises within a tenth of its length (in seconds) and dies away."""

    begin: float
    length: float
    peak: float
    messages: tuple[str, ...]

    def intensity(self, now: float) -> float:
        """Errors a line of the murmur, at `now` seconds of event time."""
        along = (now - self.begin) / self.length
        if not 0.0 <= along < 1.0:
            return 0.0
        return self.peak * min(along * 10.0, 1.0) * math.exp(-3.0 * along)


def generate(
    lines: int, seed: int = 0, start: datetime = START, rate: float = 5.0
) -> Iterator[bytes]:
    """Write a log of `lines` lines, without line ends.

    Args:
        lines: how many.
        seed: the same seed, start and rate give the same bytes; more lines only continue them.
        start: the time of the first line; what is written is its clock time in UTC.
        rate: lines a second of event time while nothing is wrong; an incident adds up to eight
            times as many. 10,000 lines at 5 a second are about half an hour.

    Raises:
        ValueError: `rate` is not positive, or `start` has no zone.
    """
    if rate <= 0:
        raise ValueError(f"rate is lines a second and must be positive, not {rate}")
    if start.tzinfo is None:
        raise ValueError("start needs a zone: generate(..., start=datetime(..., tzinfo=UTC))")
    return _write(lines, Random(seed), start.astimezone(UTC), rate)


def _write(lines: int, random: Random, start: datetime, rate: float) -> Iterator[bytes]:
    now = 0.0
    incident = _next_incident(random, now)
    stamps: dict[int, str] = {}
    for _ in range(lines):
        burst = incident.intensity(now)
        now += -math.log(1.0 - random.random()) / (rate * (1.0 + burst))
        if now >= incident.begin + incident.length:
            incident = _next_incident(random, now)
        if random.random() < burst / (1.0 + burst):
            level, text = "error", random.choice(incident.messages)
        else:
            level, text = _pick(random, _ERRORS if random.random() < _ERROR_SHARE else _NOTICES)
        written = now
        if random.random() < _STEP_BACK_SHARE:
            written = max(0.0, now - random.uniform(0.5, MAX_STEP_BACK.total_seconds()))
        second = int(written)
        stamp = stamps.get(second)
        if stamp is None:
            if len(stamps) > 100:
                stamps.clear()
            stamp = stamps[second] = _stamp(start + timedelta(seconds=second))
        yield f"[{stamp}] [{level}] {_fill(random, text)}".encode()


def _next_incident(random: Random, now: float) -> _Incident:
    quiet = _QUIET_BETWEEN_INCIDENTS * random.uniform(0.4, 1.6)
    (messages,) = random.choices([kind[1] for kind in _INCIDENTS], [kind[0] for kind in _INCIDENTS])
    return _Incident(
        begin=now + quiet,
        length=random.uniform(30.0, 300.0),
        peak=random.uniform(3.0, 8.0),
        messages=messages,
    )


def _pick(random: Random, table: tuple[tuple[int, str, str], ...]) -> tuple[str, str]:
    ((_, level, text),) = random.choices(table, [row[0] for row in table])
    return level, text


def _fill(random: Random, text: str) -> str:
    if "{" not in text:
        return text
    return text.format(
        pid=random.randint(1500, 32000),
        slot=random.randint(6, 12),
        state=random.choice((6, 6, 6, 7, 8, 9, 10)),
        address=f"{random.choice((10, 61, 63, 203, 218))}.{random.randrange(256)}"
        f".{random.randrange(256)}.{random.randint(1, 254)}",
        page=random.choice(_PAGES),
    )


def _stamp(moment: datetime) -> str:
    """Apache's clock time, whatever the locale."""
    return (
        f"{_DAYS[moment.weekday()]} {_MONTHS[moment.month - 1]} {moment.day:02}"
        f" {moment:%H:%M:%S} {moment.year}"
    )
