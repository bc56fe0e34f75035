"""What others know of an upstream, by way of the store: workers, replicas, and who served before.

Who finds an upstream failing leaves a word that lasts as long as the cool-down; the others look for
it at most once a second, beside the calls. A store that does not answer is as good as none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

import orjson

from headrace import Full, Store, Unavailable
from headrace_plugins.breaker.circuit import Circuit

_LOOKS_EVERY = 1.0
"""Seconds between two looks at what others say of an upstream that is used."""
_LONGEST_PROBE = 60.0
"""Seconds after which a probe of a process that has died is nobody's any more."""


class Word(NamedTuple):
    """What one says to the others of an upstream that is to be left alone."""

    by: str
    cooldown: float
    why: str
    who: str | None
    """The only one who has met its failures; None if it is more than one."""


class Others:
    """Speaks with the others; `heard` is told what they say, None where nobody says anything."""

    def __init__(self, store: Store, heard: Callable[[Circuit, Word | None], None]) -> None:
        self._store = store
        self._heard = heard
        self._own = secrets.token_hex(8)
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self, circuit: Circuit) -> None:
        """See to it that what others say is heard soon."""
        now = asyncio.get_running_loop().time()
        if now - circuit.looked >= _LOOKS_EVERY:
            circuit.looked = now
            self._begin(self._look(circuit))

    def tell(self, circuit: Circuit, until: float) -> None:
        """Say that it is to be left alone until then, by the loop's clock."""
        self._begin(self._tell(circuit, until))

    def take_back(self, circuit: Circuit) -> None:
        """Say that it is well."""
        self._begin(self._take_back(circuit))

    @asynccontextmanager
    async def turn(self, circuit: Circuit) -> AsyncIterator[bool]:
        """Whether to probe: nobody else says that it is too early, or probes until this is over."""
        async with AsyncExitStack() as held:
            yield await self._take(circuit, held)

    async def aclose(self) -> None:
        """Say and hear no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, circuit: Circuit, held: AsyncExitStack) -> bool:
        try:
            word = await self._said(circuit)
            if word and word.by != self._own:
                return False
            lease = self._store.lease(_key(circuit), 1, ttl=_LONGEST_PROBE)
            await held.enter_async_context(lease)
        except Full:
            return False
        except Unavailable:
            pass  # each decides for itself
        return True

    async def _said(self, circuit: Circuit) -> Word | None:
        said = await self._store.get(_key(circuit))
        return _word(said) if said else None

    async def _look(self, circuit: Circuit) -> None:
        with suppress(Unavailable):
            word = await self._said(circuit)
            if word is None or word.by != self._own:
                self._heard(circuit, word)

    async def _tell(self, circuit: Circuit, until: float) -> None:
        word = orjson.dumps([self._own, circuit.cooldown, circuit.why, circuit.by])
        left = until - asyncio.get_running_loop().time()
        with suppress(Unavailable):
            circuit.told = await self._store.set(_key(circuit), word, ttl=left)

    async def _take_back(self, circuit: Circuit) -> None:
        with suppress(Unavailable):  # it goes by itself, too
            await self._store.delete(_key(circuit))


def _key(circuit: Circuit) -> str:
    upstream, model = circuit.place
    return f"breaker:{upstream}/{model or ''}"


def _word(said: bytes) -> Word | None:
    """What makes no sense is nothing."""
    try:
        value = orjson.loads(said)
    except orjson.JSONDecodeError:
        return None
    match value:
        case [str(by), int() | float() as cooldown, str(why), str() | None as who]:
            return Word(by, cooldown, why, who)
    return None
