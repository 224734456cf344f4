"""Where the X API is, who we are there, and what its refusals mean."""

import logging
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from tweepy import HTTPException

from streamapp.errors import ConfigurationError, StreamappError

__all__ = [
    "TOKEN_VARIABLE",
    "Api",
    "BearerToken",
    "RuleError",
    "XApiError",
    "XApiUnavailable",
    "refusal",
]

TOKEN_VARIABLE: Final = "STREAMAPP_X_BEARER_TOKEN"
HOST_VARIABLE: Final = "STREAMAPP_X_HOST"
CA_VARIABLE: Final = "STREAMAPP_X_CA"

LINE_BYTES: Final = 1 << 20
"""Of a line that aiohttp is to take; it cuts the connection at twice as many."""

_CONNECT_TIMEOUT = 30.0


class XApiError(StreamappError):
    """The X API refuses us, and would refuse us again."""


class XApiUnavailable(XApiError):
    """The X API cannot be reached, or cannot answer now."""


class RuleError(StreamappError):
    """A rule is not one that the X API takes."""


class BearerToken:
    """The app's secret. Nothing that is printed of it shows it.

    Args:
        secret: the token.
        source: where it came from, for messages.

    Raises:
        ConfigurationError: it is empty, or has blanks in it.
    """

    __slots__ = ("_secret", "source")

    def __init__(self, secret: str, source: str = "the program") -> None:
        self._secret = secret.strip()
        self.source = source
        if not self._secret or len(self._secret.split()) != 1 or not self._secret.isascii():
            raise ConfigurationError(
                f"the bearer token from {source} is empty, or is not one word: copy the app's"
                " bearer token from the X developer portal, without the word Bearer"
            )

    @classmethod
    def find(cls, file: Path | None = None, environment: Mapping[str, str] | None = None) -> Self:
        """From `file` if one is given, else from the environment.

        Raises:
            ConfigurationError: there is none, or the file cannot be read.
        """
        if file is not None:
            try:
                return cls(file.read_text(), f"file {file}")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(
                    f"cannot read the bearer token from {file}: {type(error).__name__}"
                ) from None
        found = (os.environ if environment is None else environment).get(TOKEN_VARIABLE)
        if not found:
            raise ConfigurationError(
                f"there is no bearer token: set {TOKEN_VARIABLE} to that of your app, or name a"
                " file that holds it (--token-file). It is never taken from the command line,"
                " where everybody on the machine could read it"
            )
        return cls(found, TOKEN_VARIABLE)

    def reveal(self) -> str:
        """The secret itself, for the client that sends it."""
        return self._secret

    def __repr__(self) -> str:
        return f"BearerToken(from {self.source})"


@dataclass(frozen=True, slots=True)
class Api:
    """Where the X API answers. tweepy asks for `api.twitter.com`; another host can stand in for it.

    host: `name:port` to connect to instead; it has to present a certificate for api.twitter.com.
    authority: a PEM file of the certificate authority to trust instead of the system's.
    """

    host: str | None = None
    authority: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """As `STREAMAPP_X_HOST` and `STREAMAPP_X_CA` say."""
        variables = os.environ if environment is None else environment
        authority = variables.get(CA_VARIABLE)
        return cls(variables.get(HOST_VARIABLE) or None, Path(authority) if authority else None)

    def session(self) -> aiohttp.ClientSession:
        """A new session, which tweepy closes after every stream. Without limits on total time.

        Raises:
            ConfigurationError: `host` or `authority` cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{CA_VARIABLE}={self.authority} is no PEM file of an authority: {error}"
            ) from error
        connector = aiohttp.TCPConnector(
            ssl=context, resolver=None if self.host is None else _Elsewhere(self.host)
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
            read_bufsize=LINE_BYTES,
        )


class _Elsewhere(AbstractResolver):
    """Finds one host and port, whatever it is asked for."""

    def __init__(self, host: str) -> None:
        name, colon, port = host.rpartition(":")
        if not colon or not name or not port.isdecimal():
            raise ConfigurationError(f"{HOST_VARIABLE}={host!r} is not HOST:PORT")
        self._name = name
        self._port = int(port)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self._name in ("127.0.0.1", "localhost"):
            addresses = ["127.0.0.1"]
        else:
            found = await aiohttp.ThreadedResolver().resolve(self._name, self._port, family)
            addresses = [result["host"] for result in found]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=self._port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class _Redact(logging.Filter):
    """Takes the token out of what tweepy logs: at its finest level it logs every header.

    Two for one token are equal, so that a logger takes it once.
    """

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Redact) and other._secret == self._secret

    def __hash__(self) -> int:
        return hash(self._secret)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if self._secret in message:
            record.msg, record.args = message.replace(self._secret, "[bearer token]"), ()
        return True


def keep_out_of_logs(token: BearerToken) -> None:
    """Redact the token in whatever tweepy logs from now on."""
    for name in ("tweepy.asynchronous.client", "tweepy.asynchronous.streaming"):
        logging.getLogger(name).addFilter(_Redact(token.reveal()))


def refusal(status: int, token: BearerToken, what: str) -> XApiError | None:
    """The error to end with when a request for `what` is answered with `status`, if it is one."""
    if status == 401:
        return XApiError(
            f"the X API does not accept the bearer token from {token.source} (401 for {what}):"
            f" set {TOKEN_VARIABLE} (or --token-file) to the bearer token of your app, as the X"
            " developer portal shows it; a regenerated token makes the old one invalid"
        )
    if status == 403:
        return XApiError(
            f"the X API accepts the bearer token from {token.source} and forbids {what} (403):"
            " the app must belong to a project, and its access level must include it"
            " (--backfill-minutes is for enterprise access only)"
        )
    return None


def status_of(error: HTTPException) -> int:
    """The HTTP status of one of tweepy's errors."""
    return int(error.response.status)
