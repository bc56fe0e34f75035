"""A store in Redis, or Valkey: for several workers and replicas."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator

from headrace.finding import Finding
from headrace.options import Count, Duration, File, Secret, Size
from headrace.reply import shielded
from headrace.store import Full, Step, Store, Unavailable, tag_of, together
from headrace.store.redis_replies import as_it_is, done, flag, marked, policy_of
from headrace.store.redis_scripts import (
    TAKE,
    answers_of,
    arguments_of,
    bodies_of,
    milliseconds,
    script_of,
)
from headrace.store.redis_url import SCHEMES, location, trusting

if TYPE_CHECKING:
    from limits.aio.storage import Storage

    from headrace.store.redis_asking import Asking


def _checked(url: Secret) -> Secret:
    location(url.reveal())
    return url


@dataclass(kw_only=True, eq=False)
class Redis(Store):
    """Keep what is shared in Redis or Valkey, where all workers and replicas see it."""

    url: Annotated[Secret, AfterValidator(_checked)]
    """Where it is, as redis://user:password@host:6379/0; options may stand behind a `?`."""
    prefix: str = "headrace"
    """What every key begins with; who shares it shares everything."""
    connections: int = 50
    """How many connections are in use at most; who finds none free waits for one."""
    timeout: Duration = field(default_factory=lambda: Duration(0.05))
    """How long one operation may take, connecting and waiting included."""
    value: Size = field(default_factory=lambda: Size(1_000_000))
    """How large a single value may be, in bytes."""
    ca: File | None = None
    """A file of certificate authorities to verify it by, in place of this machine's."""

    shorthand: ClassVar = "url"
    schemes: ClassVar[Sequence[str]] = SCHEMES
    shared: ClassVar = True

    def __post_init__(self) -> None:
        self._location = location(self.url.reveal())
        for name, text in self._location.parameters.items():
            self._take(name, text)
        if self.connections < 1 or not self.timeout > 0:
            raise ValueError("connections and timeout must be more than 0")
        if not self.prefix or "{" in self.prefix or "}" in self.prefix:
            # A cluster looks for the first braces of a key, which are to be those of a step's tag.
            raise ValueError("prefix must be some text without braces")
        if self.ca and not self._location.tls:
            raise ValueError("ca is for TLS; write the url with rediss:// in place of redis://")
        self._tls = trusting(self.ca) if self._location.tls else None
        if find_spec("redis") is None:
            raise ValueError("the package 'redis' is missing; pip install 'headrace[standard]'")
        self._asking: Asking | None = None

    def _take(self, name: str, text: str) -> None:
        """An option that stands in the URL."""
        if name not in _PARAMETERS:
            raise ValueError(f"the url has a parameter that is no option; {_KNOWN}")
        try:
            setattr(self, name, _PARAMETERS[name](text))
        except ValueError as error:
            raise ValueError(f"in the url, {name} {error}") from None

    @property
    def fault(self) -> str | None:  # type: ignore[override]  # nobody sets it
        """Why it does not answer at the moment; None while it does."""
        return self._asking.fault if self._asking else None

    @property
    def place(self) -> str:  # type: ignore[override]  # nobody sets it
        """Its host and port, or those of its cluster or sentinels."""
        return str(self._location)

    async def __aenter__(self) -> Self:
        """Find out whether it answers; if not, that is no reason not to begin."""
        await self._open.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def _open(self) -> Asking:
        """What asks; made when it is first needed, for redis-py takes its time to load."""
        if self._asking is None:
            from headrace.store.redis_asking import Asking

            self._asking = Asking(
                self._location,
                tls=self._tls,
                connections=self.connections,
                timeout=self.timeout,
                key=self._name("probe", ""),
            )
        return self._asking

    async def aclose(self) -> None:
        """Let go of all connections; the next question opens others."""
        asking, self._asking = self._asking, None
        if asking:
            await asking.aclose()

    async def probe(self) -> str:
        """Ask what it is, and whether it can be written; `Unavailable` says why not."""
        return await self._open.describe()

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether it may throw away what is still in use once its memory is full."""
        try:
            policy = await self._open.ask(self._name("probe", ""), ("INFO", "memory"), policy_of)
        except Unavailable:
            return  # whoever tries the store says so
        loses = policy.startswith("allkeys")
        yield Finding(
            about="store's memory",
            state="warn" if loses else "ok",
            says=f"when it is full, its policy is {policy}",
            advice="take noeviction, or volatile-ttl; this one may forget limits"
            if loses
            else None,
        )

    # Values

    async def get(self, key: str) -> bytes | None:
        """The value, if it is there and its time is not over."""
        name = self._name("v", key)
        return await self._open.ask(name, ("GET", name), lambda reply: marked(reply, _mark(key)))

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        """Keep a value for `ttl` seconds; False where it is larger than `value`."""
        if len(value) > self.value:
            return False
        if ttl <= 0:
            await self.delete(key)
            return True
        name = self._name("v", key)
        command = ("SET", name, _mark(key) + value, "PX", milliseconds(ttl))
        return await self._open.ask(name, command, done)

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""
        name = self._name("v", key)
        return await self._open.ask(name, ("DEL", name), flag)

    async def clear(self, prefix: str) -> int:
        """Forget all values whose key begins so; how many there were.

        It goes through all keys that there are, some at a time, each time within `timeout`.
        """
        begins = re.sub(rb"([\\*?\[\]])", rb"\\\1", self._name("v", prefix))
        return await self._open.clear(begins + b"*")

    # Steps

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        """Run all steps as one script, on the server's clock."""
        together(steps)
        if not steps:
            return []
        keys = list(dict.fromkeys(step.key for step in steps))
        return await self._open.run(
            script_of(bodies_of(steps)),
            [self._numbers(key) for key in keys],
            arguments_of(steps, keys),
            lambda reply: answers_of(reply, len(steps)),
        )

    # Leases

    @asynccontextmanager
    async def lease(self, key: str, slots: int, *, ttl: float) -> AsyncIterator[None]:
        """Hold one of `slots` under `key`; raises `Full` where none is free.

        Where the store does not answer when it is given back, it is given back when it does.
        """
        asking, name, lease = self._open, self._name("l", key), secrets.token_hex(8)
        told = (lease, slots, milliseconds(ttl))
        asking.check()
        try:
            taken = await shielded(asking.run(TAKE, [name], told, flag))
        except asyncio.CancelledError:
            await shielded(asking.give_back(name, lease))
            raise
        except Unavailable:
            asking.owe(name, lease)
            raise
        if not taken:
            raise Full(f"all {slots} slots of {key!r} are taken")
        try:
            yield
        finally:
            await shielded(asking.give_back(name, lease))

    # What is not ours

    def windows(self) -> Storage:
        """The library's own storage for Redis, over these connections.

        Its keys do not tell its strategies apart: name what is limited after the strategy, too.
        """
        return self._windows

    @cached_property
    def _windows(self) -> Storage:
        if self._location.kind == "cluster":
            raise NotImplementedError("a cluster keeps no windows; use the token bucket")
        from headrace.store.redis_connections import Client
        from headrace.store.redis_windows import Windows

        client = Client(lambda command: self._open.ask(b"", command, as_it_is))
        return Windows(f"{self.prefix}:w", client)

    def _numbers(self, key: str) -> bytes:
        """The name of a step's numbers; a key without a tag is one, and made so here."""
        tagless = tag_of(key) == key and "}" not in key
        return self._name("m", f"{{{key}}}") if tagless else self._name("n", key)

    def _name(self, kind: str, key: str) -> bytes:
        return f"{self.prefix}:{kind}:{key}".encode(errors="surrogatepass")


def _absolute(text: str) -> File:
    if not text.startswith("/"):
        raise ValueError("must begin with a slash; a relative path goes into the option 'ca'")
    return File.parse(text)


_PARAMETERS: Mapping[str, Callable[[str], object]] = {
    "prefix": str,
    "connections": Count.parse,
    "timeout": Duration.parse,
    "value": Size.parse,
    "ca": _absolute,
}
_KNOWN = f"there are {', '.join(map(repr, _PARAMETERS))}"


def _mark(key: str) -> bytes:
    """What a value begins with, so that it is taken for no other key's."""
    return blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()
