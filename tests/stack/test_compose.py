"""The compose file and the image: what must hold of them where no Docker engine runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from streamapp import App
from streamapp.demo.stack import ingester
from tests.stack.compose import CHECKOUT, CLUSTER, COMPOSE_FILE, env_file, services

DOCKERFILE = CHECKOUT / "Dockerfile"
BROKERS = ["kafka", "kafka-2", "kafka-3"]
APPLICATION = ["prepare", "ingest-log", "ingest-tweets", "worker-ada", "worker-bob"]


def test_the_services_are_those_of_the_stack() -> None:
    assert sorted(services()) == sorted([*BROKERS, *APPLICATION])


def test_kafka_is_the_official_image_in_kraft_mode_with_a_health_check_and_a_volume() -> None:
    for number, name in enumerate(BROKERS, 1):
        broker = services()[name]
        environment = broker["environment"]
        assert re.fullmatch(r"apache/kafka:\d+\.\d+\.\d+", broker["image"])
        assert environment["KAFKA_PROCESS_ROLES"] == "broker,controller"
        assert environment["KAFKA_NODE_ID"] == str(number)
        assert environment["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:9092"
        command = broker["healthcheck"]["test"]
        assert command[:2] == ["CMD", "/opt/kafka/bin/kafka-broker-api-versions.sh"]
        assert broker["volumes"] == [f"{name}:{environment['KAFKA_LOG_DIRS']}"]
        assert not any(isinstance(value, bool) for value in environment.values())


def test_one_broker_needs_no_other_and_three_keep_three_copies() -> None:
    alone, cluster = services()["kafka"], services(env_file(CLUSTER))
    assert alone["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@kafka:9093"
    assert str(alone["environment"]["KAFKA_DEFAULT_REPLICATION_FACTOR"]) == "1"
    for name in BROKERS:
        environment = cluster[name]["environment"]
        voters = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")
        assert voters == [f"{n}@{broker}:9093" for n, broker in enumerate(BROKERS, 1)]
        replicas = {key: str(v) for key, v in environment.items() if "REPLICATION_FACTOR" in key}
        assert set(replicas.values()) == {"3"}
        in_sync = {key: str(v) for key, v in environment.items() if "ISR" in key or "INSYNC" in key}
        assert set(in_sync.values()) == {"2"}
    assert [name for name in BROKERS if "profiles" in cluster[name]] == BROKERS[1:]
    assert {tuple(cluster[name]["profiles"]) for name in BROKERS[1:]} == {("cluster",)}
    assert env_file(CLUSTER)["COMPOSE_PROFILES"] == "cluster"


def test_the_worker_takes_all_the_addresses_it_is_given() -> None:
    broker = services(env_file(CLUSTER))["worker-ada"]["environment"]["STREAMAPP_BROKER"]
    app = App("anything", broker=broker, autodiscover=False)
    assert app.kafka_options()["bootstrap_servers"] == "kafka:9092,kafka-2:9092,kafka-3:9092"
    assert app.kafka_options()["bootstrap_servers"] == env_file(CLUSTER)["BOOTSTRAP"]


def test_what_is_killed_comes_back_and_starts_in_order() -> None:
    found = services()
    for name, service in found.items():
        one_off = name == "prepare"
        assert service["restart"] == ("on-failure" if one_off else "unless-stopped")
    assert found["prepare"]["depends_on"]["kafka"] == {"condition": "service_healthy"}
    for name in APPLICATION[1:]:
        assert found[name]["depends_on"] == {
            "prepare": {"condition": "service_completed_successfully"}
        }


def test_containers_of_the_application_can_do_little() -> None:
    for name in APPLICATION:
        service = services()[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "ports" not in service
    user = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert user == ["10001"]


def test_all_but_the_one_that_ends_have_a_health_check() -> None:
    """What the checks answer is seen in `test_services`."""
    for name, service in services().items():
        check = service["healthcheck"]
        if name == "prepare":
            assert check == {"disable": True}
            continue
        assert check.keys() == {"test", "interval", "timeout", "retries", "start_period"}
        if name in APPLICATION:
            assert check["test"] == ["CMD", "streamapp", "health"]
            assert service["environment"]["STREAMAPP_PULSE"] == "/tmp/pulse"
            assert "/tmp" in service["tmpfs"], "a new container begins without a pulse"


def test_the_token_comes_from_the_callers_environment_and_is_on_no_command_line() -> None:
    with_token = services({"STREAMAPP_X_BEARER_TOKEN": "of-a-test"})
    holders = [name for name, service in with_token.items() if "of-a-test" in str(service)]
    assert holders == ["ingest-tweets"]
    service = with_token["ingest-tweets"]
    assert service["environment"]["STREAMAPP_X_BEARER_TOKEN"] == "of-a-test"
    assert "of-a-test" not in str(service["command"])
    assert services()["ingest-tweets"]["environment"]["STREAMAPP_X_BEARER_TOKEN"] == ""


@pytest.mark.parametrize(
    ("environment", "source"),
    [
        ({}, "sample tweets --rate=9"),
        ({"STREAMAPP_X_BEARER_TOKEN": ""}, "sample tweets --rate=9"),
        ({"STREAMAPP_X_BEARER_TOKEN": "of-a-test"}, "tweets --rule=python lang:en"),
    ],
)
def test_tweets_are_generated_without_a_token(environment: dict[str, str], source: str) -> None:
    words = ingester("kafka:9092", "python lang:en", "9", environment)
    assert " ".join(words) == f"ingest {source} --topic=tweets --bootstrap=kafka:9092"


def test_each_worker_has_its_own_name_and_state() -> None:
    workers = [services()[name] for name in APPLICATION if name.startswith("worker-")]
    assert [worker["command"][-1] for worker in workers] == ["ada", "bob"]
    assert [worker["volumes"] for worker in workers] == [["state-ada:/state"], ["state-bob:/state"]]


def test_all_volumes_are_declared() -> None:
    each = [service.get("volumes", []) for service in services().values()]
    used = {volume.split(":")[0] for volumes in each for volume in volumes}
    assert set(yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]) == used


@pytest.mark.parametrize("path", [COMPOSE_FILE, CLUSTER, DOCKERFILE], ids=lambda path: path.name)
def test_there_is_no_secret_in_it(path: Path) -> None:
    """Not even a name of one, but for what the caller's environment has, or nothing."""
    text = re.sub(r'(\w+): "\$\{\1:-\}"', "", path.read_text())
    assert not re.search(r"(?i)(token|password|secret|api_?key)\s*[:=]\s*\S", text)


def test_the_image_is_built_of_what_is_let_in() -> None:
    ignore = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert ignore[ignore.index("*") - 1].startswith("#"), "everything is left out first"
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert {source for copy in copies for source in copy.split()[:-1]} == let_in
    assert all((CHECKOUT / source).exists() for source in let_in)


def test_compose_reads_it_as_we_do() -> None:
    plugin = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True
    )
    if not plugin or plugin.returncode != 0:
        pytest.skip("the docker compose plugin is not here")
    for options in ([], ["--env-file", str(CLUSTER)]):
        done = subprocess.run(
            ["docker", "compose", "-f", str(COMPOSE_FILE), *options, "config", "--format", "json"],
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["services"]
        ours = services(env_file(CLUSTER) if options else {})
        for name, service in found.items():
            assert service.get("command") == ours[name].get("command")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_can_be_built(tmp_path: Path) -> None:
    """The steps of the first stage, in a clean directory, and the worker's command from there."""
    stage = DOCKERFILE.read_text().split("\nFROM ")[1]
    build, venv = tmp_path / "build", tmp_path / "venv"
    build.mkdir()
    for step in re.findall(r"^(COPY|RUN) (.+)$", stage, re.MULTILINE):
        match step:
            case ("COPY", arguments):
                *sources, target = arguments.split()
                for source in sources:
                    found = CHECKOUT / source
                    if found.is_dir():
                        shutil.copytree(found, build / target)
                    else:
                        shutil.copy(found, build / target)
            case ("RUN", command):
                placed = command.replace("/venv", str(venv))
                subprocess.run(placed, shell=True, check=True, cwd=build)
    app = tmp_path / "app"
    for package in ("agents", "tables"):
        shutil.copytree(CHECKOUT / package, app / package)
    environment = {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(app),
        "PYTHONDONTWRITEBYTECODE": "1",
        "STREAMAPP_STATE": str(tmp_path / "state"),
    }
    said = subprocess.run(
        ["python", "-c", _AGENTS],
        env=environment,
        cwd=app,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(said.stdout.split()) >= {"count_errors", "count_words", "rank_tags"}
    for command in (
        ["faust", "-A", "streamapp", "worker", "--help"],
        ["streamapp", "ingest", "sample", "--help"],
        ["python", "-m", "streamapp.demo.stack", "tweets", "--help"],
        ["streamapp", "health", "--help"],
    ):
        subprocess.run(command, env=environment, cwd=app, check=True, capture_output=True)


_AGENTS = "from streamapp import app; app.discover(); print(*app.batch_agents)"
