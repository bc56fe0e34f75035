"""A second address for operators: what they ask is served there, and nothing else is."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from .serving import Served, serving

CONFIG = """
    server: {internal: "ADDRESS", observers: [metrics], workers: WORKERS}
    upstreams: {a: mock}
    routes: {m: a}
    """


@asynccontextmanager
async def operated(
    address: str = "127.0.0.1:0", workers: int = 1
) -> AsyncIterator[tuple[Served, str]]:
    """A gateway, and where operators reach it."""
    text = CONFIG.replace("ADDRESS", address).replace("WORKERS", str(workers))
    async with serving(text) as served:
        await served.until(lambda: any("curl" in line for line in served.said))
        (found,) = re.findall(r"for operators: (\S+)", "\n".join(served.said))
        yield served, found


def six() -> bool:
    """Whether this machine has a loopback address of IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_pages_for_operators_are_there_alone(workers: int) -> None:
    async with operated(workers=workers) as (served, internal), httpx2.AsyncClient() as http:
        assert internal != served.url
        for _ in range(5):
            assert (await http.get(f"{internal}/metrics")).status_code == 200
            assert (await http.get(f"{served.url}/metrics")).status_code == 404
            assert (await http.get(f"{internal}/v1/models")).status_code == 404
            assert (await http.get(f"{served.url}/v1/models")).status_code == 200
            for url in (internal, served.url):
                assert (await http.get(f"{url}/readyz")).status_code == 200


@pytest.mark.skipif(not six(), reason="this machine has no IPv6")
async def test_it_may_be_an_address_of_ipv6() -> None:
    async with operated("[::1]:0") as (_, internal), httpx2.AsyncClient() as http:
        assert internal.startswith("http://[::1]:")
        assert (await http.get(f"{internal}/metrics")).status_code == 200
