"""Credentials: taken from the environment, given to every client, and shown nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from streamapp.clients import COMMON
from streamapp.errors import ConfigurationError
from streamapp.receivers.connection import Connection, client_options
from streamapp.receivers.tweets.window import read_published
from tests.kafka import KafkaServer
from tests.kafka.server import HOST, free_port
from tests.receivers.topics import values

SECRET = "not-to-be-seen"
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def connection(**variables: str) -> Connection:
    names = {f"STREAMAPP_KAFKA_{name}": value for name, value in variables.items()}
    return Connection.from_environment("host:9092", names)


def test_without_credentials_a_client_gets_the_address_alone():
    expected = {**COMMON, "bootstrap_servers": "host:9092"}
    assert client_options("host:9092") == client_options(connection()) == expected


def test_a_password_comes_from_a_variable_or_a_file(tmp_path: Path):
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    given = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "USERNAME": "ada"}
    expected = {
        **COMMON,
        "bootstrap_servers": "host:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "ada",
        "sasl_plain_password": SECRET,
    }
    assert client_options(connection(**given, PASSWORD=SECRET)) == expected
    assert client_options(connection(**given, PASSWORD_FILE=str(path))) == expected
    scram = connection(**given, PASSWORD=SECRET, SASL_MECHANISM="SCRAM-SHA-512")
    assert scram.security["sasl_mechanism"] == "SCRAM-SHA-512"


def test_a_password_is_not_shown():
    given = connection(SECURITY_PROTOCOL="SASL_SSL", USERNAME="ada", PASSWORD=SECRET)
    assert "ssl_context" in given.security
    assert SECRET not in f"{given} {given!r}"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "is none of PLAINTEXT, SSL"),
        ({"SECURITY_PROTOCOL": "SASL_SSL"}, "needs STREAMAPP_KAFKA_USERNAME"),
        ({"USERNAME": "ada"}, "does not ask for it"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "USERNAME": "a"}, "no STREAMAPP_KAFKA_PASSWORD_FILE"),
        ({"SECURITY_PROTOCOL": "SSL", "CA_FILE": "/nothing"}, "is no PEM file"),
        (
            {"SECURITY_PROTOCOL": "SASL_SSL", "USERNAME": "a", "PASSWORD_FILE": "/nothing"},
            "cannot read the password for Kafka from /nothing",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, str], complaint: str):
    with pytest.raises(ConfigurationError, match=complaint):
        connection(**given)


@pytest.fixture(scope="module")
def asking(
    apache_installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A Kafka with two listeners: one that asks for a password, and one that does not."""
    server, port = KafkaServer(tmp_path_factory.mktemp("kafka")), free_port()
    plain, asking = f"PLAINTEXT://{server.bootstrap}", f"SASL_PLAINTEXT://{HOST}:{port}"
    server._settings.update(
        {
            "listeners": f"{plain},{asking},CONTROLLER://{HOST}:{server.controller_port}",
            "advertised.listeners": f"{plain},{asking}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                f'{_LOGIN} required user_ada="{SECRET}";'
            ),
        }
    )
    with server:
        yield f"{HOST}:{port}", server.bootstrap


def ingest(log: Path, bootstrap: str, variables: Mapping[str, str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "streamapp", "ingest", "file", str(log)]
    command += ["--topic", "lines", "--bootstrap", bootstrap]
    names = {f"STREAMAPP_KAFKA_{name}": value for name, value in variables.items()}
    done = subprocess.run(
        command, env={**os.environ, **names}, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.broker
@pytest.mark.kafka
@pytest.mark.timeout(300)
async def test_every_client_gives_its_password(asking: tuple[str, str], tmp_path: Path):
    bootstrap, open_to_all = asking
    log = tmp_path / "x.log"
    log.write_bytes(b"one\ntwo\n")
    given = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "USERNAME": "ada"}
    code, said = ingest(log, bootstrap, {**given, "PASSWORD": SECRET})
    assert code == 0, said
    log.write_bytes(b"one\ntwo\nthree\n")
    code, more = ingest(log, bootstrap, {**given, "PASSWORD": SECRET})
    assert code == 0, more
    found = [line for part in (await values(open_to_all, "lines")).values() for line in part]
    assert sorted(found) == [b"one", b"three", b"two"]
    names = {f"STREAMAPP_KAFKA_{name}": v for name, v in {**given, "PASSWORD": SECRET}.items()}
    await read_published(Connection.from_environment(bootstrap, names), "lines", 0)
    code, wrong = ingest(log, bootstrap, {**given, "PASSWORD": f"{SECRET}-wrong"})
    assert code == 1
    assert SECRET not in said + more + wrong
