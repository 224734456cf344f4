"""One line of an Apache error log, from bytes to a `LogLine`.

Both formats that Apache has written are read:

    [Sun Dec 04 04:47:44 2005] [error] mod_jk child workerEnv in error state 6
    [Wed Oct 11 14:32:52.123456 2000] [core:error] [pid 35708:tid 43] [client ::1] AH00126: …

Decoding is on the hot path of every job that reads logs, so what repeats from line to line (the
second, the label, the first word) is converted once and remembered, within bounds.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NoReturn

import msgspec

from streamapp.errors import DecodeError

__all__ = ["LEVELS", "LineDecoder", "LogLine", "decode_log_line"]

LEVELS: Final = (
    *("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"),
    *(f"trace{depth}" for depth in range(1, 9)),
)
"""Apache's levels, the gravest first."""


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line of an error log.

    Attributes:
        time: when it was written, integer milliseconds since the epoch.
        level: one of `LEVELS`.
        module: where the message comes from; see `LineDecoder` for the rule.
        message: the rest of the line, without Apache 2.4's `[pid …]`; bytes that are not UTF-8 are
            replaced by U+FFFD.
    """

    time: int
    level: str
    module: str
    message: str


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MONTHS = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1
    )
}
_TIME = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([ 0-3][0-9])"
    rb" ([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{3})[0-9]{0,6})? ([0-9]{4})"
)
_LABEL = re.compile(rb"(?:([A-Za-z0-9_.-]*):)?([a-z]+[1-8]?)")
_PROCESS = re.compile(rb"\[pid [0-9]+(?::tid [0-9]+)?\] *")
_PREFIX = re.compile(rb"(\[(?:client|remote) [^\]]*\] *)?(AH[0-9]{5}: *)?")
_SOURCE = re.compile(
    rb"(mod_[A-Za-z0-9_]+)\b|([A-Za-z_][A-Za-z0-9_]*)(?:\.[A-Za-z0-9_.]+)?(?:\(\)|:)"
)

_REMEMBERED = 4096
"""Entries that a cache may hold before it starts afresh: input must not decide how much we keep."""


class LineDecoder:
    """Turns lines into `LogLine`s; `decode_log_line` is one of these for UTC.

    `module` is, in this order:

    1. what Apache 2.4 writes before the level, as in `[core:error]`;
    2. the name that the message begins with, after any `[client …]` and `AH00126:`: `mod_…`, a
       function (`jk2_init() Can't find…` is `jk2_init`, `workerEnv.init() ok` is `workerEnv`) or a
       word that a colon follows (`suexec: …`);
    3. `client` for a message about a client's request that names nothing;
    4. `core`.

    Args:
        zone: the zone of the server that wrote the log; the lines carry none. Where a clock is set
            back, the hour that occurs twice is taken as its first occurrence.
    """

    __slots__ = ("_labels", "_sources", "_times", "_zone")

    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._times: dict[bytes, int] = {}
        self._labels: dict[bytes, tuple[str, str]] = {}
        self._sources: dict[bytes, str] = {}

    def decode(self, raw: bytes) -> LogLine:
        """Decode one line, with or without its line end.

        Raises:
            DecodeError: the line is not in either format; the message names the part.
        """
        stamp, _, rest = raw.partition(b"] [")
        time = self._times.get(stamp)
        if time is None:
            time = self._read_time(stamp, raw)
        label, bracket, text = rest.partition(b"]")
        known = self._labels.get(label)
        if known is None or not bracket:
            known = self._read_label(label, bracket, raw)
        level, module = known
        text = text.strip(b" \r\n")
        if text.startswith(b"[pid "):
            text = _PROCESS.sub(b"", text, count=1)
        if not module:
            word = text.partition(b" ")[0]
            source = self._sources.get(word)
            module = source if source is not None else self._read_source(word, text)
        return LogLine(time, level, module, text.decode("utf-8", "replace"))

    def _read_time(self, stamp: bytes, raw: bytes) -> int:
        found = _TIME.fullmatch(stamp, 1) if stamp.startswith(b"[") else None
        if found is None or found[1] not in _MONTHS:
            _refuse("time", stamp, "expected [Sun Dec 04 04:47:44 2005]", raw)
        month, day, hour, minute, second, fraction, year = found.groups()
        try:
            moment = datetime(
                int(year),
                _MONTHS[month],
                int(day),
                int(hour),
                int(minute),
                int(second),
                int(fraction or 0) * 1000,
                tzinfo=self._zone,
            )
            time = (moment - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError) as error:
            _refuse("time", stamp, str(error), raw)
        if len(self._times) >= _REMEMBERED:
            self._times.clear()
        self._times[stamp] = time
        return time

    def _read_label(self, label: bytes, bracket: bytes, raw: bytes) -> tuple[str, str]:
        if not bracket:
            _refuse("level", label, "expected [error] or [core:error] after the time", raw)
        found = _LABEL.fullmatch(label)
        if found is None:
            _refuse("level", label, "expected [error] or [core:error]", raw)
        level = found[2].decode()
        if level not in LEVELS:
            _refuse("level", found[2], f"expected one of {', '.join(LEVELS)}", raw)
        if len(self._labels) >= _REMEMBERED:
            self._labels.clear()
        known = self._labels[label] = (level, (found[1] or b"").decode())
        return known

    def _read_source(self, word: bytes, text: bytes) -> str:
        """The source that a message names; remembered by its first word where that decides it."""
        prefix = _PREFIX.match(text)
        assert prefix is not None, "every part of it is optional"
        found = _SOURCE.match(text, prefix.end())
        if found is not None:
            source = (found[1] or found[2]).decode()
        else:
            source = "client" if prefix[1] else "core"
        if not prefix.end():
            if len(self._sources) >= _REMEMBERED:
                self._sources.clear()
            self._sources[word] = source
        return source


def _refuse(part: str, found: bytes, expected: str, raw: bytes) -> NoReturn:
    raise DecodeError(
        f"not a line of an Apache error log: its {part} is {_shown(found)}; {expected}."
        f" The line: {_shown(raw)}"
    ) from None


def _shown(raw: bytes, limit: int = 80) -> str:
    """The start of `raw` as a literal, for a message."""
    if not raw:
        return "missing"
    return repr(raw[:limit])[1:] + ("…" if len(raw) > limit else "")


decode_log_line: Final = LineDecoder().decode
"""Decode one line of a log written in UTC: `bytes` in, `LogLine` out, or a `DecodeError`."""
