"""The keys of a JWK Set, renewed before they are old, kept while their source is down."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from headrace import Duration, Finding, Overloaded, UpstreamError
from headrace_plugins.jwt_auth.keys import NONE, Algorithm, KeySet
from headrace_plugins.jwt_auth.reading import of_document
from headrace_plugins.jwt_auth.shared import Alone, Shared, Turn
from headrace_plugins.jwt_auth.sources import PATIENCE, Source

logger = logging.getLogger("headrace.jwt_auth")

_WAIT = 1.0
"""Seconds that a request, or the start of the gateway, waits for keys."""
_LOOK = 0.1
"""Seconds between two looks at what another gateway is fetching."""
_NEWER = 1.0
"""Seconds by which a document must be newer than the one that is there, to be news."""


@dataclass(kw_only=True)
class Jwks:
    """Asks its source in the background, and once more when a key is missing, but never often.

    One request at a time goes out, and within `cool_down` none follows, so a flood of tokens with
    key ids that nobody knows costs a comparison each: they need not be remembered.
    """

    source: Source
    shared: Shared | Alone
    algorithms: Sequence[Algorithm]
    refresh: float
    cool_down: float
    max_stale: float

    def __post_init__(self) -> None:
        self.fetches = 0
        self._keys = NONE
        self._document: Any = None
        self._fetched = -math.inf
        self._next = -math.inf
        self._fault = False
        self._renewing: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def follows(self, before: Self) -> None:
        """Go on with the keys that are there, if they come from the same place."""
        mine, theirs = ((it.source.name, it.algorithms) for it in (self, before))
        if mine == theirs:
            self._keys, self._document = before._keys, before._document
            self._fetched, self._next = before._fetched, before._next

    async def __aenter__(self) -> Self:
        """Ask for the first time, and go on if no answer is there in a moment."""
        if not self.keys:
            await asyncio.wait({self._renewal()}, timeout=_WAIT)
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is under way."""
        tasks = [task for task in (self._keeping, self._renewing) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def examine(self) -> AsyncIterator[Finding]:
        """Ask once, whatever was asked before, and keep nothing of it."""
        name = self.source.name.partition("?")[0]
        try:
            async with asyncio.timeout(PATIENCE):
                keys = of_document(await self.source.fetch(), self.algorithms)
        except (UpstreamError, OSError, ValueError) as error:
            says = f"no keys from {name}: {_reason(error)}"
            yield Finding(state="fail", says=says, advice="no token is let in without them")
            return
        count = len(keys.keys)
        yield Finding(says=f"{count} key{'' if count == 1 else 's'} from {name}")

    @property
    def keys(self) -> KeySet:
        """The keys that count now: none, where their source is down for too long."""
        return self._keys if self._age() <= self.max_stale else NONE

    async def renewed(self) -> KeySet:
        """The keys once their source was asked again, if that may be; raises where none count."""
        if self._renewing or self._next <= _now():
            await asyncio.wait({self._renewal()}, timeout=_WAIT)
        if not self.keys:
            wait = 1 if self._renewing else max(1, math.ceil(self._next - _now()))
            raise Overloaded(
                "the keys that tokens are verified with cannot be had at the moment",
                code="keys_unavailable",
                headers={"retry-after": str(wait)},
            )
        return self.keys

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(max(0, self._next - _now(), self.refresh - self._age()))
            await asyncio.wait({self._renewal()})

    def _renewal(self) -> asyncio.Task[None]:
        """The renewal that is under way, or that begins now."""
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
            self._renewing.add_done_callback(self._ended)
        return self._renewing

    def _ended(self, renewing: asyncio.Task[None]) -> None:
        self._renewing = None
        if not renewing.cancelled() and (bug := renewing.exception()):
            logger.error("renewing the keys of %s failed", self.source.name, exc_info=bug)

    async def _renew(self) -> None:
        self._next = _now() + self.cool_down
        turn = await self.shared.turn()
        self._next = _now() + self.cool_down  # no sooner than it can be our turn again
        if turn.mine:
            await self._fetch(turn)
            return
        for _ in range(round(PATIENCE / _LOOK)):
            if await self._take_over(turn):
                self._tell(None)
                return
            await asyncio.sleep(_LOOK)

    async def _fetch(self, turn: Turn) -> None:
        self.fetches += 1
        try:
            async with asyncio.timeout(PATIENCE):
                document = await self.source.fetch()
            self._adopt(document, age=0)
        except (UpstreamError, OSError, ValueError) as error:
            self._tell(error)
            await self._take_over(turn)  # after a restart, say
        else:
            self._tell(None)
            await self.shared.put(document, turn)

    async def _take_over(self, turn: Turn) -> bool:
        """Take what another gateway has fetched; False where that is no news."""
        fetched = await self.shared.get()
        if fetched is None or turn.age(fetched.at) + _NEWER > min(self._age(), self.max_stale):
            return False
        try:
            self._adopt(fetched.document, age=turn.age(fetched.at))
        except ValueError:
            return False
        return True

    def _adopt(self, document: Any, *, age: float) -> None:
        """Use a document's keys from now on. Raises `ValueError`, and nothing changes."""
        if document != self._document:
            self._keys = of_document(document, self.algorithms)
            self._document = document
        self._fetched = _now() - age

    def _age(self) -> float:
        return _now() - self._fetched

    def _tell(self, error: Exception | None) -> None:
        """Say in the log that the source is down, or up again, once each time."""
        name = self.source.name.partition("?")[0]
        if error and not self._fault:
            longest = Duration(self.max_stale)
            said = "no keys from %s: %s; those that were there count for up to %s"
            logger.warning(said, name, _reason(error), longest)
        elif self._fault and error is None:
            logger.warning("the keys of %s are there again", name)
        self._fault = error is not None


def _reason(error: Exception) -> str:
    match error:
        case UpstreamError(code=str(code)):
            return code
        case TimeoutError():
            return f"nothing came within {PATIENCE:g} s"
        case OSError(strerror=str(why)):
            return why
        case _:
            return str(error)


def _now() -> float:
    return asyncio.get_running_loop().time()
