"""`streamapp drain`: a worker of this host finishes, hands its tasks over, and ends."""

from __future__ import annotations

from faust.cli.base import argument, option

from streamapp.cli.ledger_command import LedgerCommand, json_option
from streamapp.lifecycle.drain import drain as drain_worker

__all__ = ["drain"]


class drain(LedgerCommand):
    """Let a worker finish its batches, hand over its tasks at once, and end.

    WORKER is its --name, or worker-0, worker-1, … of one without. It has to run on this host, with the
    state directory of the application as it is here (STREAMAPP_STATE). A named worker that is stopped by a
    signal alone is expected back, and its tasks wait for the session timeout; one that is drained is not.

    Example, before a host goes away: streamapp -A shop drain ada

    Exits with 0 when the worker has left its groups and ended; with 1 when it does not run here, or has not
    ended within --timeout; with 2 when it was wrongly called.
    """

    options = [
        argument("name", metavar="WORKER"),
        option(
            "--timeout",
            type=float,
            default=120.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for its end.",
        ),
        json_option,
    ]

    async def run(self, name: str, timeout: float, as_json: bool) -> int:
        """Drain the worker; return the exit code."""
        app = self.application
        await drain_worker(app.engine_settings.state_dir / app.conf.id, name, timeout)
        if as_json:
            self.print_json({"worker": name, "drained": True})
        else:
            print(f"{name} has finished, left its groups, and ended")
        return 0
