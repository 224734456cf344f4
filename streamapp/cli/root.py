"""`streamapp`: which command is asked for, and what has to be imported to run it.

The project's own commands are modules found by name and imported when they are asked for: one that
needs an extra does not break the others, and none waits for Faust, whose command line takes half a
second to import. Every other word is Faust's.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple, NoReturn

import click

from streamapp.errors import StreamappError

__all__ = ["OwnCommands", "command_line", "main"]

HELP = """Exactly-once stream processing on Kafka, written the way Faust is written.

The commands of Faust are here too, and take the application with -A; the one that ships with
streamapp is the default.
"""


class _Entry(NamedTuple):
    """Where an own command lives, what it does in one line, and the extra it needs."""

    module: str
    summary: str
    extra: str | None = None


#: Own commands that take the application with -A, as Faust's do, and are among Faust's.
_OF_APPLICATION = frozenset(
    {"audit", "batches", "dead-letters", "drain", "migrate", "replay", "reset"}
)

_OWN = {
    "broker": _Entry(
        "streamapp.cli.broker", "Run a Kafka broker in one process, to try things out.", "broker"
    ),
    "demo": _Entry("streamapp.cli.demo", "Run the main job: a log into windowed counts.", "broker"),
    "health": _Entry("streamapp.cli.health", "Tell whether a worker or an ingester does its work."),
    "ingest": _Entry("streamapp.cli.ingest", "Publish an outside source to a topic, exactly once."),
}


class OwnCommands(click.Group):
    """A group that has the project's own commands, imported when they are asked for.

    The module of a command holds a click command of the command's name.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_available(), *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _available().get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        try:
            command = getattr(import_module(entry.module), cmd_name)
        except ModuleNotFoundError as error:
            if entry.extra is None or (error.name or "").startswith("streamapp"):
                raise
            raise click.ClickException(
                f"`streamapp {cmd_name}` needs {error.name}, which is not installed:"
                f" pip install {error.name}, or this package with the extra '{entry.extra}'"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {
            name: command.get_short_help_str(limit=formatter.width)
            for name, command in sorted(self.commands.items())
            if not command.hidden
        }
        own = {name: entry.summary for name, entry in _available().items()}
        own |= {name: listed.pop(name) for name in _OF_APPLICATION & listed.keys()}
        for title, rows in (
            ("Commands", sorted(own.items())),
            ("Commands of Faust", [*listed.items()]),
        ):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StreamappError as error:
            raise click.ClickException(str(error)) from error


def _available() -> dict[str, _Entry]:
    return {name: entry for name, entry in _OWN.items() if find_spec(entry.module) is not None}


def command_line(arguments: Sequence[str]) -> click.Group:
    """The group that understands `arguments`: without Faust where an own command comes first."""
    if arguments and (arguments[0] in _available() or arguments[0] == "--version"):
        return OwnCommands(
            name="streamapp",
            help=HELP,
            params=[version_option()],
            context_settings={"help_option_names": ["--help", "-h"]},
        )
    from streamapp.cli.faust_commands import FaustCommands

    return FaustCommands()


def version_option() -> click.Option:
    """`--version`, naming Faust's as well: most questions about a worker need both."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            click.echo(f"streamapp {version('streamapp')} (Faust {version('faust-streaming')})")
            ctx.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and exit.",
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed (with a message), 2 wrongly called."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command_line(words).main(args=words, prog_name="streamapp")
    raise AssertionError("click exits")  # pragma: no cover
