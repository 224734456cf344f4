"""The command line: Faust's commands and the project's own."""


def main() -> None:
    """Run the `streamapp` command."""
    raise SystemExit("streamapp: no commands yet")
