"""The PostgreSQL that the tests of sinks share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sinks.postgres import Postgres, PostgresUnavailable, postgres_server

REQUIRE_POSTGRES = "STREAMAPP_REQUIRE_POSTGRES"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of the test process's own.

    Where PostgreSQL is not installed tests are skipped, or fail when STREAMAPP_REQUIRE_POSTGRES is 1.
    """
    try:
        with postgres_server() as server:
            yield server
    except PostgresUnavailable as error:
        if os.environ.get(REQUIRE_POSTGRES) == "1":
            pytest.fail(f"{error} ({REQUIRE_POSTGRES}=1)", pytrace=False)
        pytest.skip(str(error))
