"""`streamapp agents` and `streamapp tables`: Faust's lists, with the batch agents and tables in them."""

from __future__ import annotations

import inspect
from typing import Any

from faust.cli.agents import agents as faust_agents
from faust.cli.tables import DEFAULT_TABLE_HELP
from faust.cli.tables import tables as faust_tables

from streamapp.engine.app import App
from streamapp.state.table import Table, WindowedTable

__all__ = ["agents", "tables"]


class agents(faust_agents):
    """List agents."""

    async def run(self, local: bool) -> None:
        """Print the agents of the application, batch agents first."""
        found = self.app.batch_agents.values() if isinstance(self.app, App) else ()
        rows: list[Any] = [
            (agent.name, agent.topic.name, _first_line(agent.function))
            for agent in sorted(found, key=lambda agent: agent.name)
        ]
        rows += [self.agent_to_row(agent) for agent in self.agents(local=local)]
        self.say(self.tabulate(rows, headers=self.headers, title=self.title))


class tables(faust_tables):
    """List available tables."""

    async def run(self) -> None:
        """Print the tables of the application, batch tables first."""
        found = self.app.batch_tables.values() if isinstance(self.app, App) else ()
        rows: list[Any] = [
            (table.name, _kind(table)) for table in sorted(found, key=lambda table: table.name)
        ]
        rows += [
            (table.name, table.help or DEFAULT_TABLE_HELP) for table in self.app.tables.values()
        ]
        self.say(self.tabulate(rows, title=self.title, headers=["name", "help"]))


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _kind(table: Table[Any]) -> str:
    if not isinstance(table, WindowedTable):
        return "plain"
    spec, name = table.spec, type(table.aggregate).__name__
    if spec.overlapping:
        return f"{name} in hopping windows of {spec.size / 1000:g} s every {spec.step / 1000:g} s"
    return f"{name} in tumbling windows of {spec.size / 1000:g} s"
