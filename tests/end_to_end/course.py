"""What upstreams do that are told apart by name, behind a gateway with one or the other transport.

All upstreams are one server, each below a path of its own; it counts what each of them is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from headrace import Gateway, Record
from headrace.config.build import build
from headrace.config.document import parse
from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    Behaviour,
    Pause,
    Received,
    Step,
    Steps,
    answers,
    streams,
)
from headrace.transport.httpx2 import Httpx2
from headrace_plugins.observers.access_log import line

from .serving import Row, chat, eventually, in_thread, post, serving, wire

LIMIT = 1.0
"""Seconds within which connections end that nobody waits for; the goal is a tenth of it."""
EMBEDDING = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}
FILE = {"id": "file-1", "object": "file"}


@dataclass(frozen=True)
class Kind:
    """A kind of call: how it is asked, and what is a good answer to it."""

    name: str
    path: str
    """Where it is asked; empty where it is asked at the path that its route is named after."""
    body: Mapping[str, Any] | None
    """None where it is asked with GET."""
    good: tuple[Step, ...]
    headers: tuple[str, ...] = ()
    streams: bool = False

    def key(self, route: str) -> str:
        """What a route is called in the configuration."""
        return route if self.path else f"/{route}"

    def request(self, route: str, *headers: str) -> bytes:
        """A whole request that takes this route."""
        path = self.path or f"/{route}"
        if self.body is None:
            lines = [f"GET {path} HTTP/1.1", "host: localhost", "connection: close"]
            return "\r\n".join([*lines, *self.headers, *headers, "", ""]).encode()
        return post(path, {**self.body, "model": route}, *self.headers, *headers)

    def is_whole(self, body: bytes) -> bool:
        """Whether a client has got all of the good answer, once."""
        if self.streams:
            return body.count(b"data: [DONE]") == 1 and b'data: {"error"' not in body
        return body.count(self._answer) == 1

    @property
    def _answer(self) -> bytes:
        (step,) = self.good
        assert isinstance(step, bytes)
        return step.partition(b"\r\n\r\n")[2]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("chat", "/v1/chat/completions", chat(), answers(COMPLETION)),
        Kind("stream", "/v1/chat/completions", chat(stream=True), streams(*EVENTS), streams=True),
        Kind("embedding", "/v1/embeddings", {"input": "hi"}, answers(EMBEDDING)),
        Kind("passed", "", None, answers(FILE)),
        Kind("passed-stream", "", {}, streams(*EVENTS), ("idempotency-key: k-1",), streams=True),
    )
}


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, told: bytes) -> Answer:
        """An answer by its bytes."""
        head, _, body = told.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return cls(int(line.split(" ")[1]), headers, body)

    @property
    def upstream(self) -> str:
        """Who answered."""
        return self.headers["x-headrace-upstream"]

    @property
    def attempts(self) -> int:
        """How many were made for it."""
        return int(self.headers["x-headrace-attempts"])

    @property
    def code(self) -> str:
        """What went wrong."""
        code: str = json.loads(self.body)["error"]["code"]
        return code


@dataclass
class Door:
    """A gateway on a socket, through one of the transports."""

    name: str
    url: str
    rows: list[Row]

    async def row(self, request_id: str) -> Row:
        """What was recorded of one request."""
        await eventually(lambda: any(row["id"] == request_id for row in self.rows))
        (row,) = (row for row in self.rows if row["id"] == request_id)
        return row

    async def ask(self, kind: Kind, route: str, *headers: str) -> Answer:
        """One call, whole."""
        async with wire(self.url) as client:
            await client.send(kind.request(route, *headers))
            return Answer.of(await client.rest(within=20))


@asynccontextmanager
async def opened(transport: str, config: str, environ: Mapping[str, str]) -> AsyncIterator[Door]:
    """A gateway: aiohttp in the real command, httpx2 in the same application under uvicorn."""
    if transport == "aiohttp":
        async with serving(config, **environ) as served:
            await served.until(lambda: any("aiohttp" in line for line in served.said))
            yield Door(transport, served.url, served.rows)
        return
    rows: list[Row] = []

    def note(record: Record) -> None:
        rows.append(line(record))

    plan = build(parse(config, "gateway.yaml", environ), through=Httpx2())
    async with in_thread(Gateway(replace(plan, observers=(note,)))) as url:
        yield Door(transport, url, rows)


@dataclass
class Course:
    """What each upstream does, by its name, and when it is decided."""

    upstream: Loopback
    acts: dict[str, Behaviour] = field(default_factory=dict)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    at: float = 0.0

    def decide(self) -> None:
        """From now on, whoever has lost is to be let go."""
        self.at = time.perf_counter()
        self.decided.set()

    def __call__(self, received: Received) -> Steps:
        behaviour = self.acts[received.target.split("/")[1]]
        return behaviour(received) if callable(behaviour) else behaviour

    def asked(self, name: str) -> list[Received]:
        """The requests that an upstream got."""
        return [each for each in self.upstream.requests if each.target.startswith(f"/{name}/")]

    def after(self, name: str, steps: Steps) -> Callable[[Received], Iterator[Step]]:
        """These steps, once another upstream has been asked."""

        def behaviour(_: Received) -> Iterator[Step]:
            while not self.asked(name):
                yield Pause(0.001)
            self.decide()
            yield from steps

        return behaviour

    async def closed(self, name: str) -> float:
        """The milliseconds from when it was decided to the end of the connection of `name`."""
        async with asyncio.timeout(5):
            await self.decided.wait()
        [received] = self.asked(name)
        await self.upstream.closed(received.connection, within=LIMIT)
        return round(1000 * (time.perf_counter() - self.at), 1)
