"""`/recovery/` on Faust's web port: which tasks of this worker are open, and how far the others are."""

from __future__ import annotations

from html import escape
from typing import Any

from faust import web

from streamapp.engine.progress import RestoreProgress

__all__ = ["blueprint"]

blueprint = web.Blueprint("recovery")

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="1">
<title>Recovery of {worker}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem 1rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums; }}
td:first-child, th:first-child {{ text-align: left; }}
</style>
<h1>Recovery of {worker}</h1>
<p>{summary}</p>
<table>
<tr><th>task</th><th>state</th><th>done</th><th>records</th><th>MB</th><th>records/s</th><th>s left</th></tr>
{rows}
</table>
</html>
"""


@blueprint.route("/", name="index")
class Recovery(web.View):
    """How far the opening of this worker's tasks is: a page for browsers, JSON for everybody else."""

    async def get(self, request: web.Request) -> web.Response:
        """Return the last recovery, which goes on or is over."""
        engine: Any = self.app.engine  # type: ignore[attr-defined]
        if engine is None:
            return self.json({"worker": "", "active": False, "total": None, "tasks": []})
        recovery = engine.recovery
        total, tasks = recovery.total, recovery.tasks
        if "text/html" in request.headers.get("Accept", ""):
            return self.html(
                _PAGE.format(
                    worker=escape(engine.worker),
                    summary=escape(total.task),
                    rows="\n".join(_row(task) for task in (*tasks, total)),
                )
            )
        return self.json(
            {
                "worker": engine.worker,
                "active": recovery.active,
                "total": as_json(total),
                "tasks": [as_json(task) for task in tasks],
            }
        )


def as_json(progress: RestoreProgress) -> dict[str, Any]:
    """Return a progress as the fields of a JSON object."""
    return {
        "task": progress.task,
        "state": progress.state,
        "records": progress.records,
        "bytes": progress.bytes,
        "offsets_done": progress.done,
        "offsets_total": progress.total,
        "seconds": round(progress.seconds, 3),
        "records_per_second": round(progress.rate, 1),
        "remaining_seconds": None if progress.remaining is None else round(progress.remaining, 1),
    }


def _row(task: RestoreProgress) -> str:
    share = 100 * task.done // task.total if task.total else 100 * (task.state == "open")
    remaining = "" if task.remaining is None else f"{task.remaining:,.0f}"
    cells = (
        escape(task.task),
        task.state,
        f"{share} %",
        f"{task.records:,}",
        f"{task.bytes / 1e6:,.1f}",
        f"{task.rate:,.0f}",
        remaining,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
