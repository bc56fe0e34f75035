"""What a call costs a gateway: processor time, with nothing in its way and with what teams use.

Upstream, gateway and load are processes of their own; what is counted is the gateway's time alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count

from headrace import sha256

from ..bench import EVENTS, answering, cpu, serving
from ..stores.servers import running

KEY = "sk-load"
CLIENTS = 20
ROUNDS = 5
CONFIG = """
server:
  store: STORE
  observers: [access_log: {form: json}, metrics: {open: true}]
  chain:
    - rate_limit: {name: door, policies: [{by: address, requests: 9M/second}]}
    - api_key: {keys: {DIGEST: load}}
    - rate_limit
callers:
  default: {limits: {requests: 9M/second, tokens: 9G/minute, concurrent: 9k}}
upstreams:
  a: {forwarder: {openai: {base_url: "URL"}}, plugins: [breaker]}
  b: {forwarder: {openai: {base_url: "URL"}}, plugins: [breaker]}
routes:
  m: {chain: [cache, fallback], targets: [a, b]}
"""
BARE = """
server: {observers: []}
upstreams: {a: {forwarder: {openai: {base_url: "URL"}}}}
routes: {m: a}
"""


@dataclass(frozen=True)
class Kind:
    """A kind of call: what it meets, and how it is asked."""

    what: str
    typical: bool = True
    redis: bool = False
    stream: bool = False
    again: bool = False
    """Whether it asks the same each time."""

    @property
    def calls(self) -> int:
        """So many are made in a round."""
        return 200 if self.stream and not self.again else 2000


KINDS = (
    Kind("a plain answer, bare", typical=False),
    Kind("a plain answer, typical, `memory://`"),
    Kind("a plain answer, typical, Redis", redis=True),
    Kind("a plain answer, typical, Redis, from the cache", redis=True, again=True),
    Kind(f"a stream of {EVENTS} events, bare", typical=False, stream=True),
    Kind(f"a stream of {EVENTS} events, typical, Redis", redis=True, stream=True),
)


@dataclass(frozen=True)
class Spent:
    """What calls of a kind come to."""

    what: str
    millis: float
    """Milliseconds of a processor, for one call: the least of some rounds."""
    bare: float
    """The same of what is asked in the same way with nothing in its way."""


def all_spent() -> Iterator[Spent]:
    """What a call of each kind costs."""
    bare = 0.0
    for kind in KINDS:
        millis = spent(kind)
        bare = bare if kind.typical else millis
        yield Spent(kind.what, millis, bare)


def spent(kind: Kind, *, rounds: int = ROUNDS, calls: int = 0) -> float:
    """Milliseconds that a call of a kind costs, when the gateway has warmed up."""
    number = count()
    calls = calls or kind.calls
    with started(kind) as (gateway, port):
        asyncio.run(_ask(kind, port, number, calls // 4 + 1))
        found = []
        for _ in range(rounds):
            before = cpu(gateway)
            asyncio.run(_ask(kind, port, number, calls))
            found.append((cpu(gateway) - before) / calls)
    return min(found) * 1000


@contextmanager
def started(kind: Kind) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A gateway for a kind of call: its process, and its port."""
    with ExitStack() as stack:
        port = stack.enter_context(answering())
        store = stack.enter_context(running()).url if kind.redis else "memory://"
        text = (CONFIG if kind.typical else BARE).replace("URL", f"http://127.0.0.1:{port}/v1")
        text = text.replace("STORE", store).replace("DIGEST", sha256(KEY))
        gateway, own, _ = stack.enter_context(serving(text))
        yield gateway, own


async def _ask(kind: Kind, port: int, number: Iterator[int], calls: int) -> None:
    """Make calls over some connections at once, each with a question of its own `number`."""
    left = iter(range(calls))
    await asyncio.gather(*(_client(kind, port, number, left) for _ in range(CLIENTS)))


async def _client(kind: Kind, port: int, number: Iterator[int], left: Iterator[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    for _ in left:
        asked = "hi" if kind.again else f"question {next(number):06}"
        body = json.dumps(
            {"model": "m", "stream": kind.stream, "messages": [{"role": "user", "content": asked}]}
        ).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"authorization: Bearer %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n", 1)[0], head
        if kind.typical and not kind.again:
            assert b"x-headrace-cache: miss" in head, head
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
