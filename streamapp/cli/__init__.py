"""The commands: `streamapp` is Faust's command line with the project's own commands added."""

from streamapp.cli.root import main

__all__ = ["main"]
