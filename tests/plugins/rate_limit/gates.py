"""Gateways with limits, and what becomes of many calls to one."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import TypeAdapter

from headrace import Call, RateLimited, sha256
from headrace.testing import Client, Upstream, ask, gateway
from headrace.testing.client import Response
from headrace_plugins.rate_limit import Policy, RateLimit

ANN, BOB, EVE = ({"authorization": f"Bearer sk-{name}"} for name in ("ann", "bob", "eve"))

KEYS = f"""
    api_key:
      keys:
        {sha256("sk-ann")}: {{name: ann, tenant: red}}
        {sha256("sk-bob")}: {{name: bob, tenant: red}}
        {sha256("sk-eve")}: eve
"""
"""Three callers, two of them of one tenant."""

ROUTES = """
upstreams: {a: mock, b: mock}
routes: {m: a, n: a, both: {chain: [fallback], targets: [a, b]}, "*": a}
"""


@asynccontextmanager
async def limited(
    *chain: str, more: str = ROUTES, upstream: Upstream | None = None
) -> AsyncIterator[Client]:
    """A client of a gateway with these plugins in front; `keys` stands for the three callers."""
    lines = [f"    - {textwrap.dedent(KEYS).strip() if each == 'keys' else each}" for each in chain]
    front = "\n".join(line.replace("\n", "\n      ") for line in lines)
    made = gateway(f"server:\n  chain:\n{front}\n{textwrap.dedent(more)}", upstream=upstream)
    async with made.lifespan():
        yield Client(made)


async def statuses(client: Client, times: int, **options: Any) -> list[int]:
    """What so many chats in a row are answered with."""
    return [(await asked(client, **options)).status for _ in range(times)]


async def asked(
    client: Client,
    *,
    model: str = "m",
    headers: dict[str, str] | None = None,
    address: str = "127.0.0.1",
    **members: Any,
) -> Response:
    """A chat, read to its end."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **members}
    answer = await client.post(
        "/v1/chat/completions", json=body, headers=headers or {}, client=(address, 1)
    )
    await answer.read()
    return answer


def policy(**written: Any) -> Policy:
    """A policy, as it would be written."""
    return TypeAdapter(Policy).validate_python(written)


async def let_in(plugin: RateLimit, call: Call) -> bool:
    """Whether a call may pass; it is over then."""
    try:
        reply = await ask(plugin, upstream=Upstream(), call=call)
    except RateLimited:
        return False
    await reply.aclose()
    return True
