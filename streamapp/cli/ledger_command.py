"""What the commands that look at the ledger share: the application by -A, a topology, exit codes."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, ClassVar, NoReturn

import click
from aiokafka.errors import KafkaError
from faust.cli.base import AppCommand, option

from streamapp.cli.ingesting import log_to_stderr
from streamapp.engine.app import App
from streamapp.engine.topology import Topology
from streamapp.errors import ConfigurationError, StreamappError

__all__ = ["LedgerCommand", "json_option", "topology_option"]

topology_option = option("--topology", default=None, metavar="NAME", help="Of this topology alone.")
json_option = option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")


class LedgerCommand(AppCommand):
    """A command that reads what the application has written, and runs no worker.

    `run` returns the exit code. An error of the project's own is a message on standard error, and
    exit code `refused`.
    """

    abstract: ClassVar[bool] = True
    refused: ClassVar[int] = 1

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command, without Faust's worker around it, and exit."""
        log_to_stderr(logging.WARNING)
        try:
            code = asyncio.run(self.run(*self.args, *args, **self.kwargs, **kwargs))
        except StreamappError as error:
            click.echo(f"streamapp: {error}", err=True)
            code = self.refused
        except (KafkaError, OSError) as error:
            click.echo(f"streamapp: reading from Kafka: {type(error).__name__}: {error}", err=True)
            code = self.refused
        except KeyboardInterrupt:
            code = 130
        raise SystemExit(code)

    @property
    def application(self) -> App:
        """The application, which has batch agents.

        Raises:
            ConfigurationError: it is Faust's own, or has none.
        """
        app = self.app
        if not isinstance(app, App) or not app.batch_agents:
            raise ConfigurationError(
                f"the application {app.conf.id} has no batch agents, and so no ledger: is it the right one? -A names it"
            )
        return app

    def topologies(self, name: str | None) -> list[Topology]:
        """Return the topologies of the application, or the one of a name.

        Raises:
            ConfigurationError: there is none of that name.
        """
        found = self.application.topologies()
        chosen = [topology for topology in found if name in (None, topology.name)]
        if not chosen:
            raise ConfigurationError(
                f"there is no topology {name}: there are {', '.join(t.name for t in found)}"
            )
        return chosen

    @staticmethod
    def print_json(item: Any) -> None:
        """Print one line of JSON."""
        print(json.dumps(item), flush=True)
