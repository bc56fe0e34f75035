"""What a store is asked for a call: a real Valkey counts the questions and the bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from unittest import mock

from headrace import sha256
from headrace.testing import Client, gateway, settled

from ..plugins.jwt.login import logging_in
from ..plugins.jwt.tokens import AUDIENCE, ISSUER, token
from ..stores.servers import Server

TIMES = 20
QUESTIONS = ("eval", "evalsha", "get", "set", "del", "zrem")
"""What a gateway asks; scripts do more inside, which is no question of its own."""
UNHURRIED = "?timeout=5s"
"""This machine may be busy, and nobody is to go on without the store meanwhile."""


@dataclass(frozen=True)
class Carried:
    """What one call of a kind comes to."""

    what: str
    """Which call, in the words of the page."""
    questions: float
    to: float
    """Bytes to the store."""
    back: float
    """Bytes from it."""


@dataclass(frozen=True)
class Kind:
    """A kind of call: the plugins it meets, and how it is asked."""

    what: str
    front: str = ""
    """Of every call."""
    chain: str = ""
    """Of the route."""
    plugins: str = ""
    """Of the upstream."""
    again: bool = False
    """Whether it asks the same each time."""
    refused: bool = False
    """Whether it is let in the first time alone."""


LIMIT = "rate_limit: {{policies: [{}]}}".format
ALL = "by: [], requests: 9k/second"
KINDS = (
    Kind("`rate_limit`, one limit of requests", LIMIT(f"{{{ALL}}}")),
    Kind(
        "`rate_limit`, three limits of requests",
        LIMIT(f"{{{ALL}}}, {{by: address, requests: 9k/s}}, {{by: model, requests: [9k/s, 9M/d]}}"),
    ),
    Kind("`rate_limit`, requests and tokens", LIMIT(f"{{{ALL}, tokens: 9G/minute}}")),
    Kind(
        "`rate_limit`, requests, tokens and `concurrent`",
        LIMIT(f"{{{ALL}, tokens: 9G/minute, concurrent: 99}}"),
    ),
    Kind("`rate_limit`, refused", LIMIT("{by: [], requests: 1/100d}"), refused=True),
    Kind("`cache`, a hit", chain="cache", again=True),
    Kind("`cache`, a miss that is kept", chain="cache"),
    Kind("`cache`, a miss, `single_flight: false`", chain="cache: {single_flight: false}"),
    Kind("`jwt_auth`, keys known", "jwt_auth"),
    Kind("`api_key`", f"api_key: {{keys: {{{sha256('sk-ann')}: ann}}}}"),
)


async def carried(kind: Kind, server: Server) -> Carried:
    """What is asked for one call of a kind, when it is not the first."""
    server.tell("FLUSHALL")
    async with asking(kind, server) as ask:
        for number in range(3):  # scripts and connections are there then
            await ask(number)
        before = Count.of(server)
        idle = Count.of(server) - before  # what counting itself costs
        before = Count.of(server)
        for number in range(TIMES):
            await ask(100 + number)
        await settled()
        spent = Count.of(server) - before - idle
    each = [n / TIMES for n in (spent.questions, spent.to, spent.back)]
    return Carried(kind.what, *each)


@asynccontextmanager
async def asking(kind: Kind, server: Server) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """What asks a gateway for one call of a kind, the number being what is asked."""
    async with logging_in() as login:
        front = kind.front
        if front == "jwt_auth":
            front = f"jwt_auth: {{issuer: '{ISSUER}', audience: {AUDIENCE}, jwks: '{login.jwks}'}}"
        made = gateway(
            f"server: {{store: '{server.url}{UNHURRIED}', observers: [], chain: [{front}]}}\n"
            f"upstreams: {{a: {{forwarder: mock, plugins: [{kind.plugins}]}}}}\n"
            f"routes: {{m: {{chain: [{kind.chain}], targets: a}}}}\n"
        )
        shown = token() if "jwt" in kind.front else "sk-ann"
        client = Client(made, headers={"authorization": f"Bearer {shown}"})

        async def ask(number: int) -> None:
            answer = await client.chat("hi" if kind.again else f"question {number:04}")
            await answer.read()
            assert answer.status == (429 if kind.refused and number else 200), answer.status

        with mock.patch("headrace_plugins.rate_limit.budget.PATIENCE", 5):
            async with made.lifespan():
                yield ask


async def looked(server: Server) -> tuple[float, float]:
    """How often a breaker asks whose upstream is well, and in how many seconds."""
    async with asking(Kind("`breaker`", plugins="breaker"), server) as ask:
        before, began = Count.of(server), monotonic()
        for number in range(TIMES):
            await ask(number)
            await settled()
        return (Count.of(server) - before).questions, monotonic() - began


@dataclass(frozen=True)
class Count:
    """What a server has done since it was started."""

    questions: float
    to: float
    back: float

    @classmethod
    def of(cls, server: Server) -> Count:
        """Now."""
        commands, stats = server.tell("INFO", "commandstats"), server.tell("INFO", "stats")
        asked = [commands.get(f"cmdstat_{name}", {}) for name in QUESTIONS]
        return cls(
            questions=sum(each.get("calls", 0) for each in asked),
            to=stats["total_net_input_bytes"],
            back=stats["total_net_output_bytes"],
        )

    def __sub__(self, other: Count) -> Count:
        return Count(
            *(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )
