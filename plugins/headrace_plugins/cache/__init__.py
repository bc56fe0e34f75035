"""Answer a question that was asked before; ask once what many ask at the same time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, TypeAlias

from headrace import (
    PASSTHROUGH,
    Cached,
    Call,
    Duration,
    Event,
    Next,
    Reply,
    Size,
    Store,
    TimedOut,
    UpstreamError,
)
from headrace_plugins.cache.batch import Batch, batch_of, combined, saved_by
from headrace_plugins.cache.control import Control, not_cached
from headrace_plugins.cache.key import asked, key_of
from headrace_plugins.cache.large import worked
from headrace_plugins.cache.question import Leading, Question
from headrace_plugins.cache.replay import replayed
from headrace_plugins.cache.sharing import Sharing
from headrace_plugins.cache.shelf import Shelf
from headrace_plugins.cache.stored import Stored, forms

Operation: TypeAlias = Literal["chat", "completion", "embedding", "passthrough"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEYOND = "a number beyond what can be told apart"


@dataclass(kw_only=True)
class Cache:
    """Answer a question that was asked before; ask once what many ask at the same time.

    Two calls are the same question if they come from one tenant by one route, and say the same;
    whether they want a stream makes no difference. An answer is kept when it is complete and good.
    Who asks while another is being given the answer hears what was said so far, then the rest.
    """

    name: str = "cache"
    """What it keeps its answers under in the store; another name, other answers."""
    ttl: Duration = field(default_factory=lambda: Duration(600))
    """How long an answer is good."""
    when: Literal["all", "deterministic"] = "all"
    """Whether every call is kept, or those alone that ask for the same answer each time:
    embeddings, temperature 0, or a seed."""
    operations: list[Operation] = field(default_factory=lambda: ["chat", "completion", "embedding"])
    """What is kept; `passthrough` is whatever nobody reads here."""
    tenants: Literal["apart", "shared"] = "apart"
    """Whether each tenant (without one, each caller) has answers of its own, or all share them."""
    largest: Size = field(default_factory=lambda: Size(1_000_000))
    """How large an answer may be to be kept, in bytes; so much of each is held while it comes."""
    compress: Size = field(default_factory=lambda: Size(4_000))
    """Answers of more bytes are compressed, where the store is shared."""
    stale_while_revalidate: Duration = field(default_factory=lambda: Duration(0))
    """For how long after its `ttl` an answer is still given while a new one is asked for."""
    stale_if_error: Duration = field(default_factory=lambda: Duration(0))
    """For how long after its `ttl` an answer is still given when every upstream fails."""
    replay: Literal["at_once", "timed"] = "at_once"
    """Whether a kept stream comes at once, or at the pace at which it was first given."""
    single_flight: bool = True
    """Whether those who ask the same at the same time share one answer."""
    wait: Duration = field(default_factory=lambda: Duration(30))
    """How long to wait for the answer to the same question in another replica."""
    store: Store = field(default_factory=Store.of_server)

    needs_route: ClassVar = True
    owns_replies: ClassVar = True
    caches: ClassVar = True
    keeps_answers: ClassVar = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name must be at most 64 letters, digits, '.', '_' and '-'")
        if not (self.ttl > 0 and self.largest > 0):
            raise ValueError("ttl and largest must be more than 0")
        self._shelf = Shelf(
            store=self.store,
            largest=self.largest,
            compress=self.compress,
            ttl=self.ttl,
            lasts=self.ttl + max(self.stale_while_revalidate, self.stale_if_error),
        )
        self._sharing = Sharing(shelf=self._shelf, many=self.single_flight, wait=self.wait)

    async def __aenter__(self) -> Self:
        """Nothing has to be opened but the clock."""
        self._shelf.now()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave nothing running."""
        await self._sharing.aclose()

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Answer from what is kept, else with others who ask the same, else by asking."""
        control = Control.of(call)
        shared = self.tenants == "shared"
        if not (why := self._why_bypassed(call, control)):
            try:
                question = asked(call, both_forms=forms(call))
                key = key_of(call, question, cache=self.name, shared=shared)
                batch = batch_of(call, cache=self.name, shared=shared)
            except ValueError:
                why = _BEYOND
        if why and control.only_if_cached:
            raise not_cached(why)
        if why:
            note = call.record.cache = Cached(status="bypass", why=why)
            reply = await call_next(call)
            reply.cached = reply.cached or note
            return reply
        if call.told(Leading) == Leading(key):  # a cache above is asking for this very answer
            return await call_next(call)
        asking = Question(call=call, call_next=call_next, key=key, control=control, batch=batch)
        return await (self._of_batch(asking, batch) if batch else self._of_one(asking))

    def _why_bypassed(self, call: Call, control: Control) -> str:
        if call.operation not in self.operations:
            return f"operation {call.operation}"
        if control.no_store:
            return "no-store"
        if self.when == "deterministic" and not _deterministic(call):
            return "not deterministic"
        return ""

    async def _of_one(self, asking: Question) -> Reply:
        known = None
        if asking.control.only_if_cached or not self._sharing.joins(asking):
            known = await self._known(asking, asking.key)
        if known and self._shelf.is_fresh(known):
            return self._kept(asking, known, "hit")
        if known and self._shelf.is_fresh(known, beyond=self.stale_while_revalidate):
            self._sharing.refresh(asking)
            return self._kept(asking, known, "stale")
        if asking.control.only_if_cached:
            raise not_cached(asking.note.why)
        if known:
            asking.note.fwd = "stale"
        try:
            return await self._sharing.share(asking)
        except (UpstreamError, TimedOut) as error:
            if error.status < 500 or not self.stale_if_error:
                raise
            known = known or await self._known(asking, asking.key)
            if known is None or not self._shelf.is_fresh(known, beyond=self.stale_if_error):
                raise
            reply = self._kept(asking, known, "stale")
            asking.note.why, asking.note.fwd = error.code or "", "stale"
            return reply

    async def _known(self, asking: Question, key: str) -> Stored | None:
        """What is kept under a key, if the client takes it; the note says why not."""
        control = asking.control
        found = await self._shelf.get(asking, key)
        if found and not control.takes(self._shelf.age(found)):
            asking.note.why = "no-cache" if control.no_cache else "max-age"
            asking.note.fwd = "request" if self._shelf.is_fresh(found) else "stale"
            return None
        try:
            return found and await self._shelf.turned(found, asking.call)
        except UpstreamError:
            asking.note.why = "not in this form"
            return None

    def _kept(self, asking: Question, known: Stored, status: Literal["hit", "stale"]) -> Reply:
        age = self._shelf.age(known)
        asking.written(Cached(status=status, age=age, ttl=self.ttl - age, saved=known.usage))
        reply = replayed(known, asking.call, timed=self.replay == "timed")
        reply.cached = asking.note
        return reply

    # Embeddings: an answer for each input

    async def _of_batch(self, asking: Question, batch: Batch) -> Reply:
        known: dict[int, Stored] = {}
        if asking.control.only_if_cached or not self._sharing.joins(asking):
            looked = await asyncio.gather(*(self._known(asking, key) for key in batch.keys))
            known = {n: one for n, one in enumerate(looked) if one and self._shelf.is_fresh(one)}
        rest = batch.without(known)
        if known and not rest.inputs:
            age = max(map(self._shelf.age, known.values()))
            saved = saved_by(known)
            asking.written(Cached(status="hit", age=age, ttl=self.ttl - age, saved=saved))
            reply = Reply(_one(await self._combined(batch, known, None)))
            reply.cached = asking.note
            return reply
        some = f"{len(known)} of {len(batch.inputs)} inputs" if known else ""
        if asking.control.only_if_cached:
            raise not_cached(some or asking.note.why)
        if not known:
            return await self._sharing.share(asking)
        asking.note.why, asking.note.fwd, asking.note.saved = some, "partial", saved_by(known)
        return await self._of_rest(asking, batch, known, rest)

    async def _of_rest(
        self, asking: Question, batch: Batch, known: Mapping[int, Stored], rest: Batch
    ) -> Reply:
        """Ask for the inputs whose answers are not kept, and put all of them together."""
        call = asking.call.edit(input=[*rest.inputs])
        shared = self.tenants == "shared"
        key = key_of(call, asked(call, both_forms=False), cache=self.name, shared=shared)
        reply = await self._sharing.share(replace(asking, call=call, key=key, batch=rest))

        async def whole(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
            async for event in events:
                yield await self._combined(batch, known, event)

        return reply.through(whole)

    async def _combined(
        self, batch: Batch, known: Mapping[int, Stored], asked: Event | None
    ) -> Event:
        """The whole answer, of what was kept and what was `asked`. Raises `UpstreamError`."""
        size = sum(len(part.data) for one in known.values() for part in one.parts)
        size += len(asked.raw) if asked else 0
        return await worked(
            size, lambda: Event.saying(combined(batch, known, asked and asked.json), "json")
        )


async def _one(event: Event) -> AsyncIterator[Event]:
    yield event


def _deterministic(call: Call) -> bool:
    """Whether the same answer is asked for each time."""
    if call.operation == "embedding":
        return True
    said = {} if call.operation == PASSTHROUGH else call.members
    return said.get("temperature") == 0 or said.get("seed") is not None
