"""Servers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .servers import REDIS, VALKEY, Server, cluster, running, sentinel


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A Valkey that nobody ends."""
    with running(VALKEY) as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    """A Redis that nobody ends."""
    with running(REDIS) as server:
        yield server


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[Server]]:
    """A cluster of three that nobody ends."""
    with cluster() as servers:
        yield servers


@pytest.fixture(scope="session")
def watched(valkey: Server) -> Iterator[Server]:
    """A sentinel of a Valkey that nobody ends."""
    with sentinel(valkey, down=60_000) as server:
        yield server


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Server:
    """One of each kind in turn, that nobody ends."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def own() -> Iterator[Server]:
    """A Valkey for one test alone, which may do with it what it wants."""
    with running(VALKEY) as server:
        yield server
