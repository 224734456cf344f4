"""How receivers reach Kafka: the brokers' addresses, and what they ask of whoever connects.

Wherever `bootstrap` is asked for, an address is enough for brokers that ask for nothing. Secrets come
from the environment or a file, never from the command line, and are shown nowhere.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from streamapp.clients import COMMON
from streamapp.errors import ConfigurationError

__all__ = ["Bootstrap", "Connection", "client_options"]

_PREFIX: Final = "STREAMAPP_KAFKA_"
_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


@dataclass(frozen=True, slots=True)
class Connection:
    """Addresses and credentials.

    Attributes:
        bootstrap: the brokers' addresses, `host:port`, with commas between them.
        security: what aiokafka's clients take for it: `security_protocol` and others.
    """

    bootstrap: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls, bootstrap: str, environment: Mapping[str, str] | None = None) -> Self:
        """With the credentials of the STREAMAPP_KAFKA_… variables.

        `SECURITY_PROTOCOL` (PLAINTEXT by default, SSL, SASL_PLAINTEXT or SASL_SSL), `CA_FILE` for
        SSL; `SASL_MECHANISM` (PLAIN by default), `USERNAME`, and `PASSWORD` or `PASSWORD_FILE`.

        Raises:
            ConfigurationError: they do not go together, or a file cannot be read.
        """
        variables = os.environ if environment is None else environment
        given = {
            name.removeprefix(_PREFIX): value
            for name, value in variables.items()
            if name.startswith(_PREFIX) and value
        }
        protocol = given.get("SECURITY_PROTOCOL", "PLAINTEXT")
        if protocol not in _PROTOCOLS:
            raise ConfigurationError(
                f"{_PREFIX}SECURITY_PROTOCOL={protocol!r} is none of {', '.join(_PROTOCOLS)}"
            )
        security: dict[str, Any] = {}
        if protocol != "PLAINTEXT":
            security["security_protocol"] = protocol
        if protocol.endswith("SSL"):
            security["ssl_context"] = _ssl_context(given.get("CA_FILE"))
        if protocol.startswith("SASL"):
            if "USERNAME" not in given:
                raise ConfigurationError(f"{protocol} needs {_PREFIX}USERNAME")
            security["sasl_mechanism"] = given.get("SASL_MECHANISM", "PLAIN")
            security["sasl_plain_username"] = given["USERNAME"]
            security["sasl_plain_password"] = _password(given)
        elif "USERNAME" in given:
            raise ConfigurationError(
                f"{_PREFIX}USERNAME is given, and {_PREFIX}SECURITY_PROTOCOL is {protocol}, which"
                " does not ask for it: set it to SASL_SSL or SASL_PLAINTEXT"
            )
        return cls(bootstrap, security)

    def __str__(self) -> str:
        return self.bootstrap


Bootstrap = str | Connection
"""Where the brokers are, with credentials where they are asked for."""


def client_options(bootstrap: Bootstrap) -> dict[str, Any]:
    """What any client of aiokafka's is given."""
    security = bootstrap.security if isinstance(bootstrap, Connection) else {}
    return {**COMMON, "bootstrap_servers": str(bootstrap), **security}


def _ssl_context(authority: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{_PREFIX}CA_FILE={authority} is no PEM file of an authority: {error}"
        ) from error


def _password(given: Mapping[str, str]) -> str:
    if "PASSWORD" in given:
        return given["PASSWORD"]
    if "PASSWORD_FILE" not in given:
        raise ConfigurationError(f"there is no {_PREFIX}PASSWORD and no {_PREFIX}PASSWORD_FILE")
    path = Path(given["PASSWORD_FILE"])
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cannot read the password for Kafka from {path}: {type(error).__name__}"
        ) from None
