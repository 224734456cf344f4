"""An audit for people and for programs, and batches a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from streamapp.ledger.audit import Audit, PartitionAudit
from streamapp.ledger.batches import CommittedBatch
from streamapp.ledger.proof import Author, Range

__all__ = ["audit_json", "audit_text", "batches_text", "time_text"]

_TOTALS = (
    "batches",
    "records",
    "gaps",
    "overlaps",
    "beyond",
    "behind",
    "jumps",
    "lost",
    "resets",
    "unprocessed",
    "unprocessed_records",
    "pending",
    "pending_records",
)


def audit_json(audit: Audit) -> dict[str, Any]:
    """Return an audit as JSON has it: `well`, totals, and the same by source partition.

    Times are milliseconds since the epoch.
    """
    return {
        "well": audit.well,
        **{name: audit.total(name) for name in _TOTALS},
        "breaks": sum(task.breaks for task in audit.tasks),
        "shrunk": sum(task.shrunk for task in audit.tasks),
        "partitions": [
            {**msgspec.to_builtins(part), "lag": part.lag, "well": part.well}
            for part in audit.partitions
        ],
        "tasks": [{**msgspec.to_builtins(task), "well": task.well} for task in audit.tasks],
    }


def audit_text(audit: Audit) -> str:
    """Return an audit as a table, what was found in words, and a verdict in the last line."""
    return "\n".join([*_tables(audit), *_findings(audit), _verdict(audit)])


def _tables(audit: Audit) -> Iterator[str]:
    for topology in dict.fromkeys(part.topology for part in audit.partitions):
        rows = [_row(part) for part in audit.partitions if part.topology == topology]
        head = (topology, "batches", "records", "from", "until")
        yield from _table([(*head, "committed", "end", "lag", "gaps", "overlaps", "beyond"), *rows])
        yield ""


def _row(part: PartitionAudit) -> tuple[str, ...]:
    return (
        f"{part.topic}:{part.partition}",
        *(
            "-" if found is None else str(found)
            for found in (
                part.batches,
                part.records,
                part.proven_from,
                part.until,
                part.committed,
                part.end,
                part.lag,
                part.gaps,
                part.overlaps,
                part.beyond,
            )
        ),
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _findings(audit: Audit) -> Iterator[str]:
    for part in audit.partitions:
        name = f"{part.topic}:{part.partition}"
        yield from _ranges(f"gap in {name}", part.gaps, part.found_gaps, "are in no batch")
        yield from _ranges(
            f"overlap in {name}", part.overlaps, part.found_overlaps, "are in two batches"
        )
        if part.beyond:
            yield (
                f"beyond the ledger of {part.topology}: {name} is committed {part.beyond} offsets further than "
                f"{'its entries say' if part.until is None else part.until}"
            )
        for found in part.found_jumps:
            jump = found.jump
            yield (
                f"jump in {name}: {jump.why} took offsets {jump.from_offset} to {jump.until_offset} before they "
                f"were read; {_who(found.author)} went on behind them"
            )
        for found in part.found_resets:
            jump = found.jump
            yield (
                f"reset of {name} from {jump.from_offset} to {jump.until_offset}: {jump.why}; {_who(found.author)}"
            )
        if part.behind:
            yield (
                f"behind in {name}: the ledger comes to {part.until}, and the group or the state is {part.behind} offsets "
                "before that: somebody has set the group's offsets, or restored an older checkpoint topic"
            )
        if part.unprocessed:
            yield (
                f"lost in {name}: {part.unprocessed} batches, of {part.unprocessed_records} records, were committed "
                "and not processed (at most once)"
            )
        if part.pending:
            yield (
                f"pending in {name}: the last batch, of {part.pending_records} records, is committed, and is being "
                "processed or was lost with its worker (at most once)"
            )
    for task in audit.tasks:
        name = f"{task.topology}/{task.partition}"
        for shrunk in task.found_shrunk:
            yield (
                f"shrunk in {name}: the changelog of {shrunk.table} ended at {shrunk.ended}, and ends at {shrunk.ends} "
                f"later: it was deleted and made anew, or truncated; before: {_who(shrunk.before)}; after: "
                f"{_who(shrunk.after)}"
            )
        for found_break in task.found_breaks:
            after = found_break.after
            yield (
                f"break in {name}: checkpoint {found_break.expected} is to follow, and it is "
                f"{after.sequence}; before: {_who(found_break.before)}; after: {_who(after)}"
            )
        if task.beyond:
            yield (
                f"beyond the ledger of {name}: the state is at checkpoint {task.marked}, the ledger ends with "
                f"{'none' if task.last is None else task.last}"
            )


def _ranges(what: str, count: int, found: Iterable[Range], are: str) -> Iterator[str]:
    shown = 0
    for shown, each in enumerate(found, 1):  # noqa: B007
        before = "before the ledger begins" if each.before is None else _who(each.before)
        yield (
            f"{what}: offsets {each.from_offset} to {each.until_offset} {are}; before: {before}; "
            f"after: {_who(each.after)}"
        )
    if count > shown:
        yield f"{what}: {count - shown} more"


def _who(author: Author) -> str:
    return (
        f"checkpoint {author.sequence} of worker {author.worker}, epoch {author.epoch}, "
        f"{time_text(author.at)}"
    )


def time_text(milliseconds: int) -> str:
    """Return a time as people read it, in UTC."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d}Z"


def _verdict(audit: Audit) -> str:
    proven = [part for part in audit.partitions if part.since is not None]
    if not proven and audit.well:
        return "well: nothing is committed yet, or the ledger keeps nothing of it any more"
    if not audit.well:
        breaks = sum(task.breaks for task in audit.tasks)
        counts = {
            "gaps": audit.total("gaps"),
            "overlaps": audit.total("overlaps"),
            "breaks": breaks,
            "offsets beyond the ledger": audit.total("beyond"),
            "checkpoints beyond the ledger": sum(task.beyond for task in audit.tasks),
            "offsets behind the ledger": audit.total("behind"),
            "checkpoints behind the ledger": sum(task.behind for task in audit.tasks),
            "changelogs that shrank": sum(task.shrunk for task in audit.tasks),
        }
        return "NOT WELL: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    guarantees = ", ".join(sorted({part.guarantee for part in proven if part.guarantee}))
    since = time_text(min(part.since for part in proven if part.since is not None))
    return (
        f"well: {audit.total('batches')} batches of {len(proven)} partitions follow each other, with no gap and no "
        f"overlap, since {since} ({guarantees})"
    )


_BATCHES = "{:24}  {:32}  {:>7}  {:>7}  {:>7}  {:>4}  {:>4}  {:>24}  {:>8}  {:>8}  {}"


def batches_text(batches: Iterable[CommittedBatch], *, head: bool) -> Iterator[str]:
    """Yield batches as lines of a table, with its head or without; durations are milliseconds."""
    if head:
        columns = "records outputs changes late dead watermark process commit worker"
        yield _BATCHES.format("processed at", "batch", *columns.split())
    for batch in batches:
        yield _BATCHES.format(
            time_text(batch.at),
            batch.id,
            batch.records,
            batch.outputs,
            batch.changes,
            batch.late,
            batch.dead_letters,
            "-" if batch.watermark is None else time_text(batch.watermark),
            "-" if batch.committed_only else f"{batch.processing:.1f}",
            "-" if batch.commit is None else f"{batch.commit:.1f}",
            batch.worker,
        )
