"""Faust's command line under our name, with our commands and our application.

Faust's group looks for `-A` and `-W` in `sys.argv` before click has parsed it, so that commands
which an application registers are there in time. Here it is given what click's own parser finds in
the arguments that were really passed.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click
from faust.cli.base import _Group
from faust.cli.faust import cli as faust

from streamapp.cli import audit, batches, dead_letters, drain, migrate, replay, reset  # noqa: F401  (they register themselves)
from streamapp.cli.root import HELP, OwnCommands, version_option

__all__ = ["FaustCommands"]

_APPLICATION = "streamapp"
_APPLICATION_MODULE = "streamapp.application"


class FaustCommands(OwnCommands, _Group):
    """Faust's options and commands, those that the application adds, and our own."""

    def __init__(self) -> None:
        super().__init__(
            name="streamapp",
            help=HELP,
            callback=faust.callback,
            commands=faust.commands,
            params=[
                version_option(),
                *(option for option in faust.params if option.name != "version"),
            ],
            context_settings={"help_option_names": ["--help", "-h"]},
        )
        self._asked: list[str] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options, rest, _ = self.make_parser(ctx).parse_args(list(args))
        if options.get("app") is None and rest and rest[0] in faust.commands:
            default = _default_application()
            args = [*default, *args]
            options, _, _ = self.make_parser(ctx).parse_args(list(args))
        self._asked = [
            word
            for name in ("app", "workdir")
            if isinstance(value := options.get(name), str)
            for word in (f"--{name}", value)
        ]
        return super().parse_args(ctx, args)

    def _maybe_import_app(self, argv: Sequence[str] = ()) -> None:
        # As with `python -m`: autodiscovery imports `agents` and `tables` from where we are, also
        # after -W, but Faust looks there only for the application itself.
        if "" not in sys.path:
            sys.path.insert(0, "")
        super()._maybe_import_app(self._asked)


def _default_application() -> list[str]:
    return ["--app", _APPLICATION] if find_spec(_APPLICATION_MODULE) is not None else []
