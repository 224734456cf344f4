"""`streamapp replay`: an agent over the records of a batch again."""

from __future__ import annotations

import contextlib
import sys
import traceback

import click
from faust.cli.base import argument, option

from streamapp.cli.ledger_command import LedgerCommand, json_option
from streamapp.engine.agent import BatchAgent
from streamapp.errors import ConfigurationError
from streamapp.ledger.errors import AgentRaised
from streamapp.ledger.finding import BatchId
from streamapp.ledger.replay import State
from streamapp.ledger.replay import replay as replay_batch
from streamapp.ledger.replay_rendering import replay_json, replay_text

__all__ = ["replay"]


class replay(LedgerCommand):
    """Run an agent over the records of a batch again, and show what it would do.

    BATCH_ID is topic:partition:from-until, as `streamapp batches` lists it. The agent gets exactly those
    records, on the tables as the batch found them. Nothing is written to Kafka, and no state is
    touched. What the agent's own code does to the outside (a request, a file, a print) it does again:
    that cannot be held back. With --json, what it prints goes to standard error.
    """

    options = [
        argument("batch_id"),
        option("--agent", required=True, metavar="NAME", help="The batch agent to run."),
        option(
            "--state",
            type=click.Choice(["before", "empty"]),
            default="before",
            show_default=True,
            help="The tables as the batch found them, or empty ones.",
        ),
        json_option,
    ]

    async def run(self, batch_id: str, agent: str, state: State, as_json: bool) -> int:
        """Print the replay; return the exit code."""
        prints = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        try:
            with prints:
                found = await replay_batch(
                    self.application, BatchId.parse(batch_id), self._agent(agent), state
                )
        except AgentRaised as error:
            traceback.print_exception(error.__cause__)
            raise
        if as_json:
            self.print_json(replay_json(found))
        else:
            print(replay_text(found))
        return 0

    def _agent(self, name: str) -> BatchAgent:
        agents = self.application.batch_agents
        if name not in agents:
            raise ConfigurationError(
                f"there is no batch agent {name}: there are {', '.join(sorted(agents))}"
            )
        return agents[name]
