"""What `streamapp` offers, what each word runs, and with which exit code it ends."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from streamapp.cli import main, root
from streamapp.cli.root import command_line

APPLICATION = """
import os

import faust

app = faust.App(
    "shop",
    broker="kafka://localhost:1",
    autodiscover=lambda: ["shelves"] if os.path.exists("shelves.py") else [],
)

@app.command()
async def stocktake() -> None:
    "Count what is there."
    print("stock taken")
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_line(arguments), arguments, prog_name="streamapp")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two own commands: `good`, and `bad`, whose module needs something that is not installed."""
    (tmp_path / "good_command.py").write_text(
        "import click\nfrom streamapp.errors import StreamappError\n"
        "@click.command()\n@click.option('--fail', is_flag=True)\n"
        "def good(fail):\n"
        "    if fail: raise StreamappError('no such topic')\n"
        "    click.echo('well done')\n"
    )
    (tmp_path / "bad_command.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        root,
        "_OWN",
        {
            "good": root._Entry("good_command", "Do well."),
            "bad": root._Entry("bad_command", "Do badly.", "badness"),
            "later": root._Entry("streamapp.cli.not_written_yet", "Do it later."),
        },
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.usefixtures("own")
def test_help_names_our_commands_and_fausts(flag: str):
    result = run(flag)
    assert result.exit_code == 0
    assert "Exactly-once stream processing" in result.output
    assert "Do well." in result.output
    assert "worker" in result.output
    assert "Start worker instance" in result.output


@pytest.mark.usefixtures("own")
def test_a_command_that_is_not_there_is_not_offered():
    assert "later" not in run("--help").output
    assert run("later").exit_code == 2


def test_version_names_both():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("streamapp 0.")
    assert "(Faust 0.15" in result.output


@pytest.mark.usefixtures("own")
def test_an_own_command_runs():
    result = run("good")
    assert (result.exit_code, result.output) == (0, "well done\n")


@pytest.mark.usefixtures("own")
def test_an_own_command_runs_after_options_of_faust():
    result = run("--quiet", "good")
    assert (result.exit_code, result.output) == (0, "well done\n")


@pytest.mark.usefixtures("own")
def test_an_error_of_ours_is_a_message_and_exit_code_1():
    result = run("good", "--fail")
    assert result.exit_code == 1
    assert result.output == "Error: no such topic\n"


@pytest.mark.usefixtures("own")
def test_a_missing_extra_is_named_and_breaks_nothing_else():
    result = run("bad")
    assert result.exit_code == 1
    assert "this package with the extra 'badness'" in result.output
    assert run("good").exit_code == 0


def test_an_unknown_command_is_a_usage_error():
    result = run("nonsense")
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output


@pytest.mark.usefixtures("own")
def test_own_commands_do_not_wait_for_faust():
    assert type(command_line(["good"])) is root.OwnCommands


def test_main_exits_with_the_code():
    with pytest.raises(SystemExit) as caught:
        main(["nonsense"])
    assert caught.value.code == 2


def streamapp(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Faust keeps the commands of applications it has imported."""
    return subprocess.run(
        [sys.executable, "-m", "streamapp", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(root.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APPLICATION)
    return tmp_path


def test_commands_of_an_application_are_offered(shop: Path):
    offered = streamapp("-A", "shop", "--help", cwd=shop)
    assert offered.returncode == 0
    assert "Count what is there." in offered.stdout


def test_commands_of_an_application_run(shop: Path):
    taken = streamapp("--app=shop", "stocktake", cwd=shop)
    assert (taken.returncode, taken.stdout) == (0, "stock taken\n"), taken.stderr


def test_an_application_elsewhere_is_found_with_workdir(shop: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    taken = streamapp("-W", str(shop), "-A", "shop", "stocktake", cwd=elsewhere)
    assert (taken.returncode, taken.stdout) == (0, "stock taken\n"), taken.stderr


@pytest.mark.parametrize("where", [[], ["-W", "."]])
def test_what_an_application_discovers_is_found_where_it_runs(shop: Path, where: list[str]):
    (shop / "shelves.py").write_text("from shop import app\n\napp.Table('stock')\n")
    listed = streamapp(*where, "-A", "shop", "tables", cwd=shop)
    assert "stock" in listed.stdout, listed.stderr


def test_the_shipped_application_is_the_default(monkeypatch: pytest.MonkeyPatch):
    from streamapp.cli import faust_commands

    monkeypatch.setattr(faust_commands, "_default_application", lambda: ["--app", "the_default"])
    for arguments, app in [
        (["worker"], "the_default"),
        (["-q", "worker"], "the_default"),
        (["-A", "mine", "worker"], "mine"),
        (["-qAmine", "worker"], "mine"),
        ([], None),
    ]:
        group = faust_commands.FaustCommands()
        context = click.Context(group, info_name="streamapp")
        if not arguments:
            with pytest.raises(click.exceptions.NoArgsIsHelpError):
                group.parse_args(context, arguments)
        else:
            group.parse_args(context, arguments)
        assert context.params.get("app") == app


def test_without_an_application_faust_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    from streamapp.cli import faust_commands

    monkeypatch.setattr(faust_commands, "_default_application", list)
    result = run("tables")
    assert result.exit_code == 2
    assert "Need to specify app using -A" in result.output


def test_a_worker_imports_no_more_of_the_package_than_it_runs():
    script = (
        "import sys; from faust.cli.faust import cli\n"
        "try: cli(['-A', 'streamapp', 'agents'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'agents.errors', 'streamapp.broker', 'tweepy', 'kio'} & sys.modules.keys()))"
    )
    checkout = Path(root.__file__).parents[2]
    listed = subprocess.run(
        [sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert listed.stdout.splitlines()[-1] == "['agents.errors']", listed.stderr
