"""The store in Redis keeps what every store keeps, wherever it is."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from headrace import Duration, Secret, Store
from headrace.store.redis import Redis
from headrace.testing.contracts.store import StoreContract

from .servers import Server


class Waiting:
    """A clock that is turned by waiting: the store has its own."""

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)


class RedisContract(StoreContract):
    second = 0.05
    url: str

    @pytest.fixture
    def clock(self) -> Waiting:
        return Waiting()

    async def make(self) -> Store:
        patient = Duration(5)  # for a machine that has other things to do
        return Redis(url=Secret(self.url), prefix=uuid4().hex, timeout=patient)


class TestServer(RedisContract):
    @pytest.fixture(autouse=True)
    def at(self, server: Server) -> None:
        self.url = server.url


class TestCluster(RedisContract):
    @pytest.fixture(autouse=True)
    def at(self, nodes: list[Server]) -> None:
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


class TestSentinel(RedisContract):
    @pytest.fixture(autouse=True)
    def at(self, watched: Server) -> None:
        self.url = f"redis+sentinel://127.0.0.1:{watched.port}/main/0"
