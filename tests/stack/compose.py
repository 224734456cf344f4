"""The compose file, read as compose reads it, and its services as plain processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CHECKOUT", "Service", "Stack", "env_file", "interpolated", "services"]

CHECKOUT = Path(__file__).parents[2]
COMPOSE_FILE = CHECKOUT / "docker-compose.yml"
CLUSTER = CHECKOUT / "cluster.env"

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*))?\}")


def env_file(path: Path) -> dict[str, str]:
    """The variables of an env file."""
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME:-default}`."""

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        if name not in variables and default is None:
            raise AssertionError(f"${{{name}}} has no default: it would be empty")
        return variables.get(name) or default

    return _VARIABLE.sub(value, text)


def services(variables: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The services of the compose file, with variables filled in."""
    text = interpolated(COMPOSE_FILE.read_text("utf-8"), variables or {})
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


class Service:
    """A service's own command line and environment, as a process of this machine.

    A container's directories become directories of the test's. What a command names is found beside
    this Python, as in the image.
    """

    def __init__(
        self, name: str, definition: Mapping[str, Any], directory: Path, given: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        volumes = dict(volume.split(":")[:2] for volume in definition.get("volumes", ()))
        mounts = {target: directory / source for source, target in volumes.items()}
        mounts |= {target: directory / f"{name}{target}" for target in definition["tmpfs"]}
        for mount in mounts.values():
            mount.mkdir(parents=True)
        self._mounts = mounts
        self._command = self._installed(definition["command"])
        self._check = definition["healthcheck"]
        image = {"STREAMAPP_STATE": "/state", "PYTHONPATH": str(CHECKOUT)}
        ours = {**image, **definition["environment"]}
        inherited = {name: value for name, value in os.environ.items() if "STREAMAPP" not in name}
        self._environment = {
            **inherited,
            **{key: self._placed(value) for key, value in ours.items()},
            **given,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def _installed(self, command: Sequence[str]) -> list[str]:
        program, *arguments = command
        return [str(Path(sys.executable).parent / program), *map(self._placed, arguments)]

    def _placed(self, text: str) -> str:
        for target, source in self._mounts.items():
            if text == target or text.startswith(f"{target}/"):
                return f"{source}{text.removeprefix(target)}"
        return text

    def start(self) -> None:
        """Run the command: for the first time, or because the restart policy says so."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Fail, with the end of its log, if it has ended."""
        assert self.running, (
            f"{self.name} has ended:\n{self.log.read_text(errors='replace')[-3000:]}"
        )

    @property
    def healthy(self) -> bool:
        """What its health check says."""
        kind, *command = self._check["test"]
        assert kind == "CMD"
        done = subprocess.run(
            self._installed(command), env=self._environment, cwd=CHECKOUT, capture_output=True
        )
        return done.returncode == 0

    def wait(self, timeout: float = 60.0) -> int:
        """Return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        """`kill -9`, of the process and what it has started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Stack:
    """The services of the application, on a broker of the test's; a context that ends them all.

    Args:
        bootstrap: the broker's address.
        directory: for everything that the services keep.
        environment: for each service, beside what the compose file gives it.
        variables: as of the environment of `docker compose`.
    """

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> None:
        addresses = bootstrap.split(",")
        variables |= {
            "BOOTSTRAP": bootstrap,
            "BROKER": ";".join(f"kafka://{address}" for address in addresses),
        }
        self.services = {
            name: Service(name, definition, directory, environment or {})
            for name, definition in services(variables).items()
            if definition["image"] == "streamapp"
        }

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        for service in self.services.values():
            service.kill()
